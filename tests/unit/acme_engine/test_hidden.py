"""A hidden value shows itself to nobody who does not ask by name."""

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import traceback

import pytest

from acme_engine.hidden import Hidden
from sds_server import log
from sds_server.redact import redact

TEXT, RAW = "correct horse battery", b"correct horse battery"


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    key: Hidden
    name: str = "www"


@pytest.fixture(params=[TEXT, RAW], ids=["text", "bytes"])
def hidden(request):
    return Hidden(request.param)


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        format,
        ascii,
        "{}".format,
        "{!r:>12}".format,
        lambda value: f"{value}{value!r}{value!s}{value:>20}",
        lambda value: "%s %r %a" % (value, value, value),  # noqa: UP031 - also so
        lambda value: repr({"key": [value]}),
        lambda value: repr(Holder(value)),
        lambda value: repr(dataclasses.asdict(Holder(value))),
        lambda value: repr(dataclasses.astuple(Holder(value))),
        lambda value: repr(copy.copy(value)) + repr(copy.deepcopy([value])),
        lambda value: pprint.pformat(Holder(value)),
        lambda value: str(ValueError(value)),
        lambda value: json.dumps({"key": value}, default=str),
        lambda value: json.dumps(redact({"key": [value]})),
    ],
)
def test_nothing_shows_it(hidden, shown):
    said = shown(hidden)

    assert "horse" not in said
    assert "<secret>" in said


@pytest.mark.parametrize("write", [json.dumps, pickle.dumps, bytes, memoryview])
def test_nothing_writes_it(hidden, write):
    with pytest.raises(TypeError) as refused:
        write(hidden)

    assert "horse" not in str(refused.value)


def test_no_log_and_no_traceback_shows_it(hidden):
    stream = io.StringIO()
    log.configure(level="debug", stream=stream)
    try:
        raise ValueError(hidden)
    except ValueError:
        log.get("app").exception("loop.crashed", loop=hidden)
        logging.getLogger("asyncio").error("it said %s", hidden)
        said = stream.getvalue() + traceback.format_exc()

    assert "horse" not in said
    assert 3 <= said.count("<secret>")


def test_it_is_revealed_by_name(hidden):
    assert hidden.reveal() in {TEXT, RAW}


def test_it_is_compared_but_not_hashed_and_never_changed():
    assert Hidden(TEXT) == Hidden(TEXT)
    assert Hidden(TEXT) != Hidden(TEXT + "!")
    assert Hidden(TEXT) != Hidden(RAW)
    assert Hidden(TEXT) != TEXT
    assert [True, False] == [bool(Hidden("x")), bool(Hidden(b""))]
    with pytest.raises(TypeError):
        hash(Hidden(TEXT))
    with pytest.raises(AttributeError):
        Hidden(TEXT).value = "x"
    with pytest.raises(TypeError):
        Hidden(5)


def test_it_has_no_attribute_that_vars_would_show(hidden):
    assert not hasattr(hidden, "__dict__")
