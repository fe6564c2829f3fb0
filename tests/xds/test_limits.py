"""What one identity may cost on its streams."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from structlog.testing import capture_logs

from sds_server.identity import Grant, Grants
from sds_server.xds.caller import Denied
from sds_server.xds.limits import LOOK_UPS, Limits
from tests.support.clocks import TurnedClock
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed
from tests.xds.test_server import DELTA_SECRETS, Client, open_stream

OTHER = "spiffe://td.test/other"
PAIR = authority().issue(dns=["a.test"])


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
async def server(tmp_path, clock):
    async with deployed(tmp_path, names=["team/*"], clock=clock) as deployment:
        yield deployment


async def test_one_identity_may_have_so_many_streams_and_others_as_many(server, tmp_path):
    server.server._service.limits._most = 2
    server.grants = Grants([Grant(EDGE, ("a",)), Grant(OTHER, ("a",))])
    server.publish("a", 1, PAIR)
    clients = [await open_stream(server, node=node, names=["a"]) for node in ("one", "two")]
    for client in clients:
        await client.receive()
    with capture_logs() as logs:
        third = Client(server.channel(), DELTA_SECRETS)
        code, details = await third.status()
    other = Client(server.channel(server.clients_ca.issue(uris=[OTHER])), DELTA_SECRETS)
    await other.send(names=["a"])

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == code
    assert f"{EDGE} has 2 streams open already" == details
    assert [(EDGE, 2)] == [
        (line["identity"], line["most"]) for line in logs if line["event"] == "streams.capped"
    ]
    assert "a" == (await other.receive()).resources[0].name

    await clients[0].leave()
    async with asyncio.timeout(TIMEOUT_S):
        while server.server.streams > 2:  # one of the edge's, and the other's
            await asyncio.sleep(0.01)
    again = await open_stream(server, node="four", names=["a"])
    assert "a" == (await again.receive()).resources[0].name


async def test_an_identity_wants_no_more_names_at_once_than_its_grants_let_it(server, tmp_path):
    """Of all its streams together; the next looks absent, and comes when another is wanted no more."""
    server.grants = Grants([Grant(EDGE, ("team/*",), max_names=2), Grant(OTHER, ("team/*",))])
    for name in ("team/a", "team/b", "team/c"):
        server.publish(name, 1, PAIR)
    one = await open_stream(server, node="one", names=["team/a", "team/b"])
    had = [(await one.receive()).resources[0].name for _ in range(2)]
    two = await open_stream(server, node="two", names=["team/a", "team/c"])
    answers = [await two.receive() for _ in range(2)]
    other = Client(server.channel(server.clients_ca.issue(uris=[OTHER])), DELTA_SECRETS)
    await other.send(names=["team/a", "team/b", "team/c"])
    others = {(await other.receive()).resources[0].name for _ in range(3)}

    assert ["team/a", "team/b"] == sorted(had)
    assert ["team/a"] == [found.name for answer in answers for found in answer.resources]
    assert ["team/c"] == [name for answer in answers for name in answer.removed_resources]
    assert {"team/a", "team/b", "team/c"} == others
    assert ("denied", "two", "team/c") in server.witness.facts
    assert Denied.CROWDED is server.witness.why

    for answer in answers:
        await two.send(node="", nonce=answer.nonce)
    await one.send(node="", unsubscribe=["team/b"])
    assert "team/c" == (await two.receive()).resources[0].name


async def test_a_stream_that_ends_makes_room(server):
    server.grants = Grants([Grant(EDGE, ("team/*",), max_names=1)])
    for name in ("team/a", "team/b"):
        server.publish(name, 1, PAIR)
    one = await open_stream(server, node="one", names=["team/a"])
    await one.receive()
    two = await open_stream(server, node="two", names=["team/b"])
    absent = await two.receive()
    await two.send(node="", nonce=absent.nonce)
    await one.leave()

    assert ["team/b"] == absent.removed_resources
    assert "team/b" == (await two.receive()).resources[0].name
    await two.leave()
    await server.witness.until("disconnected", "two", "team/b")
    assert {} == server.server._service.limits._wanted
    assert {} == server.server._service.limits._waiting


async def test_names_that_do_not_exist_are_looked_up_only_so_fast(server, clock):
    """Others wait, in silence, and are looked up later; what exists costs nothing."""
    wanted = []
    server.catalog.on_want = wanted.append
    names = [f"team/{number}" for number in range(6_000)]
    server.publish("team/5999", 1, PAIR)
    client = await open_stream(server, names=names)

    assert "team/5999" == (await client.receive()).resources[0].name
    assert names[:5_000] == wanted

    server.publish("team/0", 1, PAIR)  # one that exists after all
    assert "team/0" == (await client.receive()).resources[0].name
    clock.turn(timedelta(seconds=1))
    server.publish("team/1", 1, PAIR)  # wakes the stream, as the turned clock cannot
    assert "team/1" == (await client.receive()).resources[0].name
    server.publish("team/2", 1, PAIR)
    assert "team/2" == (await client.receive()).resources[0].name
    assert 5_051 <= len(wanted) <= 5_053
    await client.leave()


async def test_a_name_that_is_dropped_while_it_waits_is_not_looked_up(server, clock):
    wanted = []
    server.catalog.on_want = wanted.append
    server.server._service.limits._bucket(EDGE, LOOK_UPS).tokens = 0
    client = await open_stream(server, names=["team/1"])
    await server.witness.until("subscribed", "n", "team/1")
    await client.send(node="", unsubscribe=["team/1"])
    await server.witness.until("unsubscribed", "n", "team/1")
    clock.turn(timedelta(seconds=5))
    server.publish("team/2", 1, PAIR)
    await client.send(node="", names=["team/2"])

    assert "team/2" == (await client.receive()).resources[0].name
    assert [] == wanted
    await client.leave()


async def test_denials_are_told_only_so_often(server):
    names = [f"theirs/{number}" for number in range(1_100)]
    with capture_logs() as logs:
        client = await open_stream(server, names=names)
        for _ in names:
            assert [] == [*(await client.receive()).resources]
    told = [fact for fact in server.witness.facts if fact[0] == "denied"]

    assert len(names) == len(told)
    assert 1_000 == len([line for line in logs if line["event"] == "secret.denied"])
    assert [EDGE] == [line["identity"] for line in logs if line["event"] == "names.throttled"]
    await client.leave()


def test_identities_without_a_debt_are_forgotten(monkeypatch):
    monkeypatch.setattr("sds_server.xds.limits.MAX_IDENTITIES", 3)
    clock = TurnedClock()
    limits = Limits(clock)
    for _ in range(3):
        limits.may_tell(OTHER)
    for number in range(8):
        limits.may_tell(f"spiffe://td.test/{number}")
    clock.turn(timedelta(seconds=2))
    limits.may_tell(EDGE)

    assert {OTHER, EDGE} == {identity for identity, _ in limits._buckets}


def test_what_exists_is_not_counted():
    limits = Limits(TurnedClock())
    assert all(limits.may_look_up(EDGE) for _ in range(5_000))
    limits.exists(EDGE)

    assert limits.may_look_up(EDGE)
    assert not limits.may_look_up(EDGE)


def test_what_is_larger_than_any_of_envoys_is_taken_in_its_own_time():
    clock = TurnedClock()
    limits = Limits(clock)
    mebibyte = 1024 * 1024
    assert [0.0] * 1_000 == [limits.pause_s(EDGE, 61_192) for _ in range(1_000)]
    assert [0.0] * 4 + [2.0, 4.0] == [limits.pause_s(EDGE, 2 * mebibyte) for _ in range(6)]
    assert 0.0 == limits.pause_s(OTHER, 2 * mebibyte)

    clock.turn(timedelta(seconds=6))
    assert 0.0 == limits.pause_s(EDGE, 2 * mebibyte)


async def test_a_stream_of_large_requests_is_read_slowly(server, clock):
    server.publish("team/1", 1, PAIR)
    client = await open_stream(server, names=["x" * 511] * 2_000)

    async def send():  # the server's slowness is felt here
        for _ in range(20):
            await client.send(node="", names=["x" * 511] * 2_000)
        await client.send(node="", names=["team/1"])

    sending = asyncio.create_task(send())
    async with asyncio.timeout(TIMEOUT_S):
        while not clock.sleeping:
            await asyncio.sleep(0.01)
    assert ("subscribed", "n", "team/1") not in server.witness.facts

    while ("subscribed", "n", "team/1") not in server.witness.facts:
        clock.turn(timedelta(seconds=1))
        await asyncio.sleep(0.01)
    await sending
    await client.leave()
