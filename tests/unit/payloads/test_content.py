"""Payloads: what Envoy would refuse, or take for another kind, passes no gate."""

import pytest

from sds_server.errors import GateRefused
from sds_server.model import Kind
from sds_server.payloads import content as contents
from sds_server.payloads import generic, tickets
from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.tickets import TicketKeys
from sds_server.payloads.trust import TrustBundle
from tests.support.pki import authority

BUNDLE = TrustBundle.read(authority("root").pem.decode())
KEYS = TicketKeys((b"a" * 80, b"b" * 80))
GENERIC = GenericSecret(value=b"\x00hmac\xff")
NAMED = GenericSecret(parts={"id": b"x", "secret": b"y"})


def refusal(check, value, **more):
    with pytest.raises(GateRefused) as refused:
        check(value, **more)
    return refused.value.rule


@pytest.mark.parametrize("held", [KEYS, GENERIC, NAMED], ids=["keys", "generic", "named"])
def test_what_was_sealed_comes_back(held):
    assert held == contents.opened(contents.kind_of(held), held.raw)


@pytest.mark.parametrize("held", [BUNDLE, KEYS, GENERIC], ids=["bundle", "keys", "generic"])
@pytest.mark.parametrize("kind", list(Kind))
def test_a_payload_passes_as_its_own_kind_alone(held, kind):
    if contents.kind_of(held) is kind:
        contents.check(held, kind=kind, now=None)
    else:
        assert "kind" == refusal(contents.check, held, kind=kind, now=None)


@pytest.mark.parametrize("kind", [Kind.VALIDATION_CONTEXT, Kind.GENERIC_SECRET, Kind.TLS_CERTIFICATE])
@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b'{"value": 1, "parts": 2}', b"[]"])
def test_what_cannot_be_read_is_refused_and_not_quoted(kind, raw):
    with pytest.raises(GateRefused):
        contents.opened(kind, raw)


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ((), "empty"),
        ((b"a" * 79,), "size"),
        ((b"a" * 80, b"b" * 81), "size"),
        (tuple(bytes([n]) * 80 for n in range(17)), "size"),
        ((b"a" * 80, b"a" * 80), "repeated"),
    ],
)
def test_ticket_keys_are_80_bytes_each_and_some_and_all_different(keys, rule):
    assert rule == refusal(tickets.check, TicketKeys(keys))


def test_a_rotation_puts_a_new_key_first_and_drops_the_oldest_beyond_those_that_are_kept():
    new = iter([b"n" * 80, b"m" * 80])
    first = KEYS.rotated(keep=3, random=lambda _size: next(new))
    second = first.rotated(keep=3, random=lambda _size: next(new))

    assert (b"n" * 80, b"a" * 80, b"b" * 80) == first.keys
    assert (b"m" * 80, b"n" * 80, b"a" * 80) == second.keys
    assert 80 == len(TicketKeys(()).rotated(keep=1).keys[0])


@pytest.mark.parametrize(
    ("held", "rule"),
    [
        (GenericSecret(), "empty"),
        (GenericSecret(value=b""), "empty"),
        (GenericSecret(parts={"a": b""}), "empty"),
        (GenericSecret(value=b"a", parts={"a": b"b"}), "empty"),
        (GenericSecret(value=b"a" * 65_537), "size"),
        (GenericSecret(parts={"": b"a"}), "size"),
        (GenericSecret(parts={f"{n}": b"a" for n in range(101)}), "size"),
    ],
)
def test_a_generic_secret_is_neither_nothing_nor_too_much(held, rule):
    assert rule == refusal(generic.check, held)


@pytest.mark.parametrize("held", [KEYS, GENERIC, NAMED], ids=["keys", "generic", "named"])
def test_what_is_secret_is_not_in_its_repr(held):
    assert not any(part in repr(held) for part in ("aaaa", "hmac", "id"))


def test_sealed_content_is_bound_to_its_kind_and_secret():
    bindings = {
        contents.binding(kind, name)
        for kind in (Kind.GENERIC_SECRET, Kind.SESSION_TICKET_KEYS)
        for name in ("a", "b")
    }

    assert 4 == len(bindings)
