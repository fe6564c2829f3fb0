"""A line of the log: one JSON object, whoever speaks, and no secret in it wherever it was put."""

import asyncio
import base64
import io
import json
import logging
import time
import warnings
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acme_engine import keys
from sds_server import log
from sds_server.log_events import EVENTS
from sds_server.programs.child import free_port
from sds_server.redact import TEXT_MAX

BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def lines():
    """Everything that is logged from now on, a parsed line each."""
    stream = io.StringIO()
    log.configure(level="debug", stream=stream, replica="r1")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_when_and_what(lines):
    before = datetime.now(UTC)
    log.get("rotation").info("rotation.claimed", secret="www", attempts=1)

    (line,) = lines()
    assert ("r1", "rotation", "info") == (line["replica"], line["component"], line["level"])
    assert ("rotation.claimed", "www", 1) == (line["event"], line["secret"], line["attempts"])
    assert line["timestamp"].endswith("Z")
    assert before <= datetime.fromisoformat(line["timestamp"]) <= before + timedelta(minutes=1)


@pytest.mark.parametrize("event", [entry.name for entry in EVENTS])
def test_every_event_comes_out_under_its_name(lines, event):
    log.get("order").info(event)

    assert [event] == [line["event"] for line in lines()]


def test_an_event_is_one_line_whatever_it_holds(lines):
    log.get("app").error(
        "app.ready", text="two\nlines\r\x1b[31m \u2028 red", number=float("nan"), thing=object()
    )

    assert 1 == len(lines())


@pytest.mark.parametrize("name", ["asyncio", "aiohttp.server", "grpc._cython.cygrpc", "somebody.else"])
def test_what_a_library_says_is_a_line_like_any_other(lines, name):
    logging.getLogger(name).warning("%d tasks were left", 3)

    (line,) = lines()
    assert ("library.said", "warning") == (line["event"], line["level"])
    assert (name, "3 tasks were left") == (line["logger"], line["message"])
    assert "library.said" in {event.name for event in EVENTS}


async def test_what_is_sent_to_us_and_is_no_http_is_not_repeated(lines):
    """An Envoy with the API's port in place of SDS's speaks HTTP/2 there, and comes again and again."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"a stranger's words" * 100)
        await reader.read()
        writer.close()
    finally:
        await runner.cleanup()

    (line,) = [line for line in lines() if line["logger"] == "aiohttp.server"]
    assert "Error handling request from 127.0.0.1: no HTTP/1.1 request" == line["message"]
    assert ("warning", False) == (line["level"], "stranger" in str(line))


def test_a_librarys_message_that_does_not_fit_its_arguments_is_told_all_the_same(lines):
    told = {"name": "asyncio", "levelno": 35, "msg": "%d tasks", "args": ("three",)}
    log._Library().emit(logging.makeLogRecord(told))

    assert [("warning", "%d tasks")] == [(line["level"], line["message"]) for line in lines()]


def test_the_engine_speaks_the_vocabulary_through_the_standard_library(lines):
    logging.getLogger("acme_engine.http01").debug("challenge.unanswered", extra={"error": "Unavailable"})

    assert [("challenge.unanswered", "debug", "Unavailable")] == [
        (line["event"], line["level"], line["error"]) for line in lines()
    ]


def test_a_warning_of_python_is_a_line(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.configure(level="debug", stream=(stream := io.StringIO()))
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "DeprecationWarning: old" in json.loads(stream.getvalue())["message"]


def test_a_task_that_nobody_waited_for_is_told_of_in_a_line(lines):
    async def forget():
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "nobody waited", "exception": ValueError("boom")})

    asyncio.run(forget())

    (line,) = [line for line in lines() if line["level"] == "error"]
    assert "nobody waited" in line["message"]
    assert "ValueError: boom" in line["exception"]


def test_what_is_below_the_level_is_left_out():
    log.configure(level="warning", stream=(stream := io.StringIO()))
    log.get("app").info("app.ready")
    logging.getLogger("asyncio").info("a slow callback")
    logging.getLogger("acme_engine.http01").debug("challenge.unanswered")

    assert "" == stream.getvalue()


def test_a_traceback_holds_no_variables(lines):
    key = "local-variable"
    try:
        raise ValueError(len(key))
    except ValueError:
        log.get("loop").exception("loop.crashed", loop="feed")

    (line,) = lines()
    assert "ValueError: 14" in line["exception"]
    assert key not in line["exception"].replace(f'key = "{key}"', "")


# ---------------------------------------------------------------- secrets

word = st.text(BASE64URL, min_size=24, max_size=60)
token = st.text(BASE64URL, min_size=43, max_size=43)


def _private_key() -> str:
    return keys.pem(ec.generate_private_key(ec.SECP256R1())).decode()


def _body(pem: str) -> list[str]:
    """The lines that must not come out."""
    return pem.strip().splitlines()[1:-1]


PEM, ED25519 = _private_key(), keys.pem(Ed25519PrivateKey.generate()).decode()
LINES, BARE = _body(PEM), "".join(_body(PEM))
DER = base64.b64decode(BARE)


def _of_key(text: str, begin: int, end: int) -> tuple[str, list[str]]:
    """A text of which these characters are the key's own."""
    return text, [text[begin:end]]


OF_KEYS = [
    (PEM, LINES),
    (PEM.replace("\n", "\\n"), LINES),
    (PEM[: len(PEM) // 2], [PEM[40 : len(PEM) // 2].strip().splitlines()[0]]),
    (BARE, LINES),
    ("\n".join(LINES), LINES),
    ("\\r\\n".join(LINES), LINES),
    (quote(PEM), [quote(line) for line in LINES]),
    (quote_plus(PEM), [quote_plus(line) for line in LINES]),
    (quote(BARE, safe=""), [quote(line, safe="") for line in LINES]),
    ("".join(_body(ED25519)), [_body(ED25519)[0][22:]]),
    _of_key(base64.urlsafe_b64encode(DER).decode(), 48, 88),
    _of_key(base64.b64encode(PEM.encode()).decode(), 100, 140),
    _of_key(DER.hex(), 72, 136),
    _of_key(repr(DER), -60, -1),
]
"""A private key as text: whole, cut, escaped, encoded."""


@st.composite
def secrets(draw):
    """Return (the text that holds a secret, the parts of it that must not come out)."""
    one = draw(word)
    return draw(
        st.sampled_from(
            [
                *OF_KEYS,
                (f"certvoy_{(text := draw(token))}", [text]),
                (f"Authorization: Bearer {one}", [one]),
                (f"Authorization: Basic {one}", [one]),
                (f"Bearer {one}", [one]),
                (f"postgresql://certvoy:{one}@db.example.com/certvoy", [one]),
                (f"postgresql://certvoy:{one[:12]}@{one[12:]}@db/certvoy", [one[:12], one[12:]]),
                (f"host=db password={one} dbname=certvoy", [one]),
                (f"host=db password='{one} {one}' dbname=certvoy", [one]),
                (f"postgresql://db/certvoy?user=c&password={one}&sslmode=require", [one]),
                (f'{{"protected": "eyJ9", "payload": "", "signature": "{one}"}}', [one]),
                (f"{{'kty': 'EC', 'crv': 'P-256', 'd': '{one}'}}", [one]),
                (json.dumps({"password": f"""{one[:12]}"'{one[12:]}"""}), [one[:12], one[12:]]),
                (f"password='{one[:12]}\\' {one[12:]}'", [one[:12], one[12:]]),
                (json.dumps(json.dumps({"kty": "oct", "k": one})), [one]),
                (f"eyJhbGciOiJFUzI1NiJ9.{one}.{one}", [one]),
                (f"eab_hmac_key={one}", [one]),
            ]
        )
    )


names = st.sampled_from(
    ["password", "hmac_key", "Authorization", "private_key", "api_token", "dek", "Set-Cookie"]
)


class Foreign:
    """An object that prints what it holds."""

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Foreign({self.held!r})"


class Broken:
    def __str__(self):
        raise RuntimeError("cannot be printed")


def nested(leaves):
    keyed = st.text(min_size=1, max_size=8)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(keyed, inner, min_size=1, max_size=2),
            inner.map(Foreign),
            inner.map(lambda held: ValueError("refused", held)),
            inner.map(lambda held: {str(held): "as a key"}),
        ),
        max_leaves=4,
    )


def said(**fields):
    stream = io.StringIO()
    log.configure(level="debug", stream=stream)
    log.get("app").info("app.ready", **fields)
    (line,) = stream.getvalue().splitlines()
    json.loads(line)
    return line


@given(st.data(), st.text(max_size=20), st.text(max_size=20))
def test_no_secret_comes_out_of_any_nesting(data, before, after):
    text, hidden = data.draw(secrets())
    value = data.draw(nested(st.sampled_from([f"{before} {text} {after}", f"{text}"])))

    line = said(value=value)

    assert [] == [part for part in hidden if part in line]


def test_quotes_of_several_depths_hide_no_end_of_a_password():
    """What is printed within what is printed escapes some of them: the last one of the line ends it."""
    printed = str(("""said password='hunter2' and "more\"""", "password='cor\\' recthorse'"))

    assert "recthorse" not in said(value=printed)


@given(names, word, st.binary(min_size=16, max_size=64))
def test_a_field_with_a_secret_name_says_nothing(name, one, raw):
    line = said(headers={name: [one]}, pairs=[(name, one)], settings={"deep": {name: {"is": one}}}, raw=raw)

    assert one not in line
    assert raw.hex() not in line


@given(secrets())
def test_no_secret_comes_out_of_an_exception(secret):
    text, hidden = secret
    stream = io.StringIO()
    log.configure(level="debug", stream=stream)
    try:
        try:
            raise ValueError(text)
        except ValueError as e:
            raise RuntimeError({"cause": text}) from e
    except RuntimeError:
        log.get("loop").exception("loop.crashed", loop="feed")
        logging.getLogger("asyncio").exception("it said %s", text)

    assert [] == [part for part in hidden if part in stream.getvalue()]
    assert 2 == len(stream.getvalue().splitlines())


def test_what_is_no_secret_stays_readable():
    fields = {
        "fingerprint": "5f" * 32,
        "order": "https://acme.example.com:14000/order/kHQ6lPoNzz8bJ5SlsfCdXTIImu0nIVBjY5gNPqtKLsM",
        "error": "the CA refused: urn:ietf:params:acme:error:unauthorized: no token at http://www.example.com/",
        "key_ref": "cv1:local:kek-1:0f1b3c52-6a9e-4c38-9c5e-2f4c1f3f7a11",
        "path": "/etc/certvoy/kek",
        "seconds": 1.25,
        "delta": True,
        "target": None,
    }

    line = json.loads(said(**fields))

    assert fields == {name: line[name] for name in fields}


def test_a_value_without_end_is_cut():
    loop = []
    loop.append(loop)

    assert len(said(text="x " * 100_000, loop=loop)) < 50_000


def test_an_object_that_cannot_be_printed_is_named():
    assert '"<Broken>"' in said(value=Broken())


@pytest.mark.parametrize(
    "part",
    [
        "a.",
        "a-",
        "a",
        "-eyJ",
        "\\",
        "\\x00",
        "\\x00" + "a" * 59,
        "%41",
        "\n",
        "\\n",
        "a://b:",
        '"d":',
        "token",
        "-----BEGIN",
        " BEGIN PRIVATE KEY-----",
    ],
)
def test_no_words_of_a_stranger_hold_up_who_logs_them(part):
    words = (part * TEXT_MAX)[:TEXT_MAX]
    begun = time.thread_time()
    said(error=words)

    assert time.thread_time() - begun < 1.0


def test_nothing_of_an_enrolment_token_is_logged():
    random = "Ab3_" * 10 + "xyz"

    assert "xyz" not in said(text=f"certvoy_enrol_{random}.{'5f' * 32}")


def test_what_logs_beside_a_command_in_a_test_is_not_in_its_output(capsys, caplog):
    """The API of a fixture says that the loop was late when it was, such as in the middle of a command."""
    log.get("loop").warning("loop.late", seconds=1.5)
    shown = capsys.readouterr()

    assert ("", "") == (shown.out, shown.err)
    assert "loop.late" in caplog.text
