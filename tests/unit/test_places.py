"""Where an address leads: each place is looked at, and all must show the same."""

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import astuple

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.inventory.voices import Before, Wanted
from sds_server.lifecycle import looks
from sds_server.model import Target, TargetId, TargetKind
from sds_server.payloads.trust import TrustBundle
from sds_server.targets import places, probe
from sds_server.targets.places import counted, found, served
from sds_server.targets.probe import NobodyThere, ProbeFailed, Way
from sds_server.targets.verdict import Stated
from tests.support.fakes import Listener, leading
from tests.support.pki import authority
from tests.support.quic_server import QuicListener

NAME = "www.example.test"
BOTH = ("127.0.0.1", "127.0.0.2")


def fingerprint(pair):
    return hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).hexdigest()


@pytest.fixture
def pairs():
    """The one that shall be served, and the one before."""
    ca = authority()
    return ca.issue([NAME]), ca.issue([NAME])


@pytest.fixture
async def pool(tmp_path):
    """Two listeners on one port, and the address of the name that they share."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Listener(tmp_path))
        port = int(first.address.rpartition(":")[2])
        second = await stack.enter_async_context(Listener(tmp_path, host=BOTH[1], port=port))
        stack.enter_context(leading("pool.test", *BOTH))
        yield first, second, f"pool.test:{port}"


async def test_what_every_place_serves_is_served(pool, pairs):
    *listeners, address = pool
    for listener in listeners:
        listener.serve(pairs[0])

    assert fingerprint(pairs[0]) == (await served(address, NAME, wanted=fingerprint(pairs[0]))).fingerprint
    assert [[NAME], [NAME]] == [listener.names for listener in listeners]


@pytest.mark.parametrize("old", [0, 1])
async def test_one_place_that_serves_another_leaf_is_the_one_that_is_told(pool, pairs, old):
    *listeners, address = pool
    listeners[old].serve(pairs[1])
    listeners[1 - old].serve(pairs[0])
    seen = await served(address, NAME, wanted=fingerprint(pairs[0]))

    assert (fingerprint(pairs[1]), f"{address} at {listeners[old].address}") == (seen.fingerprint, seen.place)


async def test_a_target_is_proved_by_all_that_its_address_leads_to(pool, pairs):
    first, second, address = pool
    wanted = Wanted([NAME], 2, fingerprint(pairs[0]), "ab", None)
    target = Target(TargetId(1), "pool", TargetKind.ENVOY, None, None, address, True)
    first.serve(pairs[0])
    second.serve(pairs[1])
    before = await looks.look(target, wanted, told=lambda _how: None)
    second.serve(pairs[0])
    after = await looks.look(target, wanted, told=lambda _how: None)

    assert (None, fingerprint(pairs[1])) == (before.by, before.served)
    assert f"{address} at {second.address} serves {fingerprint(pairs[1])[:16]}" in before.error
    assert "handshake" == after.by


async def test_a_place_that_fails_is_named(pool, pairs):
    first, _second, address = pool
    first.serve(pairs[0])
    with pytest.raises(ProbeFailed, match=rf"^{address} at 127\.0\.0\.2:\d+: it hung up in the handshake"):
        await served(address, NAME)


async def test_a_place_that_fails_does_not_hide_one_that_serves_another_leaf(pool, pairs):
    """Else what it serves were unknown, which takes no proof back and heals nobody."""
    _first, second, address = pool
    second.serve(pairs[1])

    seen = await served(address, NAME, wanted=fingerprint(pairs[0]))

    assert (fingerprint(pairs[1]), f"{address} at {second.address}") == (seen.fingerprint, seen.place)


async def test_a_place_where_nobody_listens_beside_one_that_answers_is_not_proved(tmp_path, pairs):
    async with Listener(tmp_path) as listener:
        listener.serve(pairs[0])
        address = listener.address.replace("127.0.0.1", "pool.test")
        with (
            leading("pool.test", *BOTH),
            pytest.raises(ProbeFailed, match=r"at 127\.0\.0\.2:\d+: .*[Cc]onnect"),
        ):
            await served(address, NAME)


async def test_a_family_where_nobody_listens_does_not_count_where_the_other_answers(tmp_path, pairs):
    async with Listener(tmp_path) as listener:
        listener.serve(pairs[0])
        with leading("pool.test", "::1", "127.0.0.1"):
            seen = await served(listener.address.replace("127.0.0.1", "pool.test"), NAME)

    assert fingerprint(pairs[0]) == seen.fingerprint


@pytest.fixture
async def edge(tmp_path):
    """A listener over TCP, one over QUIC at the same place, and the way to both."""
    async with Listener(tmp_path) as tcp, QuicListener(tcp.address) as quic:
        yield tcp, quic, Way(tcp.address, http3=True)


async def test_what_is_served_over_tcp_and_over_quic_is_served(edge, pairs):
    tcp, quic, way = edge
    tcp.serve(pairs[0])
    quic.serve(pairs[0])

    assert (fingerprint(pairs[0]), tcp.address) == astuple(
        await served(way, NAME, wanted=fingerprint(pairs[0]))
    )


@pytest.mark.parametrize("other", ["over TCP", "over QUIC"])
async def test_the_one_of_tcp_and_quic_that_serves_another_leaf_is_named(edge, pairs, other):
    tcp, quic, way = edge
    tcp.serve(pairs[other == "over TCP"])
    quic.serve(pairs[other == "over QUIC"])
    place = tcp.address if other == "over TCP" else f"{tcp.address} over QUIC"

    assert (fingerprint(pairs[1]), place) == astuple(await served(way, NAME, wanted=fingerprint(pairs[0])))


async def test_what_is_served_over_quic_is_told_where_tcp_fails(edge, pairs):
    tcp, quic, way = edge
    quic.serve(pairs[1])
    seen = await served(way, NAME, wanted=fingerprint(pairs[0]))

    assert (fingerprint(pairs[1]), f"{tcp.address} over QUIC") == astuple(seen)


async def test_what_is_served_over_tcp_is_told_where_quic_fails(tmp_path, pairs):
    async with Listener(tmp_path) as tcp:
        tcp.serve(pairs[1])
        seen = await served(Way(tcp.address, http3=True), NAME, wanted=fingerprint(pairs[0]))

        assert (fingerprint(pairs[1]), tcp.address) == astuple(seen)


async def test_nobody_there_over_quic_is_a_failure(tmp_path, pairs):
    """No family of addresses is missing: clients come by TCP, are told of HTTP/3, and find nobody."""
    async with Listener(tmp_path) as tcp:
        tcp.serve(pairs[0])
        address = tcp.address.replace("127.0.0.1", "pool.test")
        with (
            leading("pool.test", "::1", "127.0.0.1"),
            pytest.raises(ProbeFailed, match=rf"^{address} at {tcp.address} over QUIC: Connection refused$"),
        ):
            await served(Way(address, http3=True), NAME, wanted=fingerprint(pairs[0]))


async def test_a_family_where_nobody_listens_at_all_does_not_count_with_http3_either(edge, pairs):
    tcp, quic, way = edge
    tcp.serve(pairs[0])
    quic.serve(pairs[0])
    with leading("pool.test", "::1", "127.0.0.1"):
        seen = await served(way.at(tcp.address.replace("127.0.0.1", "pool.test")), NAME)

    assert fingerprint(pairs[0]) == seen.fingerprint


async def test_who_says_nothing_over_quic_is_a_failure(edge, pairs, monkeypatch):
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.3)
    tcp, _silent, way = edge
    tcp.serve(pairs[0])
    with pytest.raises(ProbeFailed, match=rf"^{tcp.address} over QUIC: it did not finish .* does UDP come"):
        await served(way, NAME)


async def test_a_target_with_http3_is_proved_by_both(edge, pairs):
    tcp, quic, way = edge
    wanted = Wanted([NAME], 2, fingerprint(pairs[0]), "ab", None)
    target = Target(TargetId(1), "edge", TargetKind.ENVOY, None, None, way.address, True, http3=True)
    tcp.serve(pairs[0])
    quic.serve(pairs[1])
    before = await looks.look(target, wanted, told=lambda _how: None)
    quic.serve(pairs[0])
    after = await looks.look(target, wanted, told=lambda _how: None)

    assert (None, fingerprint(pairs[1])) == (before.by, before.served)
    assert f"{tcp.address} over QUIC serves {fingerprint(pairs[1])[:16]}" in before.error
    assert "handshake" == after.by


async def test_a_name_that_fails_over_quic_does_not_hide_another_that_serves_another_leaf(tmp_path, pairs):
    """Nobody is there over QUIC, for whatever name: over TCP the second one shows its leaf."""
    async with Listener(tmp_path) as tcp:
        tcp.serve(pairs[0], NAME)
        tcp.serve(pairs[1])
        wanted = Wanted([NAME, "b.example.test"], 2, fingerprint(pairs[0]), "ab", None)
        target = Target(TargetId(1), "edge", TargetKind.ENVOY, None, None, tcp.address, True, http3=True)
        seen = await looks.look(target, wanted, told=lambda _how: None)

    assert fingerprint(pairs[1]) == seen.served


GONE, FAILED = NobodyThere("refused"), ProbeFailed("hung up")


@pytest.mark.parametrize(
    ("looks", "counts"),
    [
        ({"1.0.0.1:1": 1, "1.0.0.2:1": 2}, {"1.0.0.1:1", "1.0.0.2:1"}),
        ({"1.0.0.1:1": 1, "[::1]:1": GONE}, {"1.0.0.1:1"}),
        ({"1.0.0.1:1": GONE, "[::1]:1": 1, "[::2]:1": GONE}, {"[::1]:1", "[::2]:1"}),
        ({"1.0.0.1:1": 1, "[::1]:1": FAILED}, {"1.0.0.1:1", "[::1]:1"}),
        ({"1.0.0.1:1": GONE, "[::1]:1": FAILED}, {"[::1]:1"}),
        ({"1.0.0.1:1": GONE, "[::1]:1": GONE}, {"1.0.0.1:1", "[::1]:1"}),
        ({"1.0.0.1:1": 1, "1.0.0.1:1 over QUIC": GONE}, {"1.0.0.1:1", "1.0.0.1:1 over QUIC"}),
        ({"1.0.0.1:1": 1, "[::1]:1": GONE, "[::1]:1 over QUIC": GONE}, {"1.0.0.1:1"}),
    ],
)
def test_what_counts(looks, counts):
    assert counts == counted(looks).keys()


async def test_an_address_is_not_looked_up():
    async def look(place):
        return place

    with leading("pool.test"):
        assert {"127.0.0.1:1": "127.0.0.1:1"} == await found("127.0.0.1:1", look)
        assert {"[::1]:1": "[::1]:1"} == await found("[::1]:1", look)


@pytest.mark.parametrize(
    ("address", "why"), [("other.test:1", "no such name"), ("edge..test:1", "no such name")]
)
async def test_a_name_that_leads_nowhere_is_said(address, why):
    with leading("pool.test"), pytest.raises(ProbeFailed, match=f"^{address}: .*{why}"):
        await served(address, NAME)


async def test_a_fleet_behind_one_name_is_no_target(monkeypatch):
    monkeypatch.setattr(places, "PLACES_MAX", 1)
    with (
        leading("pool.test", *BOTH),
        pytest.raises(ProbeFailed, match="2 addresses: make each a target of its own"),
    ):
        await served("pool.test:1", NAME)


async def test_they_are_looked_at_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(places, "AT_ONCE", 2)
    now = most = 0

    async def look(_place):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    with leading("pool.test", *(f"127.0.0.{n}" for n in range(1, 8))):
        assert 7 == len(await found("pool.test:1", look))
    assert 2 == most


async def _envoy(ip, port, serials, cas=()):
    """What an Envoy's admin interface says that it has loaded."""
    listed = {
        "certificates": [
            {"cert_chain": [{"serial_number": serial}], "ca_cert": [{"serial_number": ca} for ca in cas]}
            for serial in serials
        ]
    }
    app = web.Application()

    async def answer(_request):
        return web.json_response(listed)

    app.router.add_get("/certs", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ip, port).start()
    return runner, runner.addresses[0][1]


async def test_each_envoy_behind_a_name_is_asked():
    wanted = Wanted([NAME], 2, "ff", "0b", None)
    first, port = await _envoy(BOTH[0], 0, ["0b"])
    second, _ = await _envoy(BOTH[1], port, ["0a"])
    target = Target(TargetId(1), "pool", TargetKind.ENVOY, None, None, None, True, admin=f"pool.test:{port}")
    try:
        with leading("pool.test", BOTH[0]):
            alone = await looks.look(target, wanted, told=lambda _how: None)
        with leading("pool.test", *BOTH):
            both = await looks.look(target, wanted, told=lambda _how: None)
    finally:
        await first.cleanup()
        await second.cleanup()

    assert "certs" == alone.by
    assert (None, True) == (both.by, f"at {BOTH[1]}:{port}/certs: generation 2 is not loaded" in both.error)


async def test_an_envoy_that_does_not_answer_hides_none_that_has_another_leaf_loaded():
    before = Before(1, "ee", "0a")
    wanted = Wanted([NAME], 2, "ff", "0b", before)
    running, port = await _envoy(BOTH[1], 0, ["0a"])
    target = Target(TargetId(1), "pool", TargetKind.ENVOY, None, None, None, True, admin=f"pool.test:{port}")
    try:
        with leading("pool.test", *BOTH):
            look = await looks.look(target, wanted, told=lambda _how: None)
    finally:
        await running.cleanup()

    assert before.fingerprint == look.served
    assert f"at {BOTH[1]}:{port}/certs: generation 1 is loaded still" in look.error


async def test_an_envoy_that_does_not_answer_hides_none_that_has_another_bundle_loaded():
    old, new = authority("old"), authority("new")
    contents = [
        TrustBundle.read(ca.certificate.public_bytes(Encoding.PEM).decode()).text for ca in (new, old)
    ]
    running, port = await _envoy(BOTH[1], 0, ["1"], cas=[f"{old.certificate.serial_number:x}"])
    try:
        with leading("pool.test", *BOTH):
            said = await looks.bundle(f"pool.test:{port}", *contents)
    finally:
        await running.cleanup()

    assert (Stated.BEFORE, None) == said


async def test_a_bundle_is_loaded_where_every_envoy_has_it():
    old, new = authority("old"), authority("new")
    contents = [
        TrustBundle.read(ca.certificate.public_bytes(Encoding.PEM).decode()).text for ca in (new, old)
    ]
    serials = [f"{ca.certificate.serial_number:x}" for ca in (new, old)]
    first, port = await _envoy(BOTH[0], 0, ["1"], cas=serials[:1])
    second, _ = await _envoy(BOTH[1], port, ["1"], cas=serials[1:])
    try:
        with leading("pool.test", *BOTH):
            differ = await looks.bundle(f"pool.test:{port}", *contents)
        with leading("pool.test", BOTH[0]):
            alone = await looks.bundle(f"pool.test:{port}", *contents)
    finally:
        await first.cleanup()
        await second.cleanup()

    assert ((Stated.BEFORE, None), (Stated.LOADED, None)) == (differ, alone)
