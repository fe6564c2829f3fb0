"""Names on demand on the wire, without an Envoy: a flood of misses, and who may wish at all."""

import asyncio
import time
from random import Random

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

from sds_server.clock import SystemClock
from sds_server.identity import Grant, Grants
from sds_server.on_demand.names import Names
from sds_server.on_demand.rules import Result, Rule, Verdict
from sds_server.xds.answers import MAX_SPELLINGS
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import ADS, SDS
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed

DELTA_ADS, STATE_OF_THE_WORLD = f"/{ADS}/DeltaAggregatedResources", f"/{SDS}/StreamSecrets"
SHOPS = Rule("shops", "ca", suffix=".shops.test")
DOTS = ("shops.test", "shops.test.", "SHOPS.test")
PAIR = authority().issue(dns=["a.shops.test"])


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path, names=["*.shops.test"]) as deployment:
        deployment.names = Names(
            [SHOPS],
            clock=SystemClock(),
            may_issue=lambda _identity, name: deployment.issue and not name.startswith("miss-"),
        )
        deployment.issue = False
        await deployment.stop()
        await deployment.start()
        yield deployment


class Delta:
    """A client's delta stream on ADS, as an Envoy's selector uses it."""

    def __init__(self, server):
        self.call = server.channel().stream_stream(DELTA_ADS)()
        self.first = True
        self._one_write = asyncio.Lock()

    async def say(self, *, subscribe=(), unsubscribe=(), nonce=""):
        node = Node(id="edge-1") if self.first else None
        self.first = False
        message = pb.DeltaDiscoveryRequest(
            node=node,
            type_url=TYPE_URL,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            response_nonce=nonce,
        )
        async with self._one_write:
            await self.call.write(message.SerializeToString())

    async def hear(self):
        async with asyncio.timeout(TIMEOUT_S):
            data = await self.call.read()
        assert data is not grpc.aio.EOF, await self.call.details()
        return pb.DeltaDiscoveryResponse.FromString(data)


async def test_a_thousand_made_up_names_a_second_are_told_absent_and_leave_nothing(server):
    """As an Envoy does: it subscribes, hears that there is none, and unsubscribes."""
    client, rng = Delta(server), Random(3)
    names = [f"{rng.getrandbits(64):x}.shops.test" for _ in range(1_000)]
    started = time.perf_counter()

    async def ask():
        for name in names:
            await client.say(subscribe=[name])

    async def answer():
        for _ in names:
            response = await client.hear()
            (name,) = response.removed_resources
            await client.say(unsubscribe=[name], nonce=response.nonce)
            yield name

    asking = asyncio.create_task(ask())
    told = [name async for name in answer()]
    await asking
    took_s = time.perf_counter() - started

    assert sorted(names) == sorted(told)
    assert took_s < 20  # 1 s on a machine that does nothing else
    async with asyncio.timeout(TIMEOUT_S):
        while server.names._watchers:
            await asyncio.sleep(0.01)
    assert [] == server.witness.facts  # nobody is told of what is nothing
    assert frozenset() == server.catalog.known


async def test_a_miss_is_answered_within_five_milliseconds_while_others_are_wished_for(server):
    server.issue = True
    client = Delta(server)
    await client.say(subscribe=[f"{number}.shops.test" for number in range(50)])
    took_s = []
    for number in range(20):
        started = time.perf_counter()
        await client.say(subscribe=[f"miss-{number}.shops.test"])
        response = await client.hear()
        took_s.append(time.perf_counter() - started)
        assert [f"miss-{number}.shops.test"] == response.removed_resources
        await client.say(unsubscribe=response.removed_resources, nonce=response.nonce)

    assert min(took_s) < 0.005, "at its quickest: what else the machine does is not ours"


async def test_a_name_is_answered_as_it_was_asked_for(server):
    client = Delta(server)
    server.names.learn({"a.shops.test": ["a.shops.test"]})
    server.publish("a.shops.test", 1, PAIR)
    await client.say(subscribe=["A.Shops.test"])
    (resource,) = (await client.hear()).resources

    assert "A.Shops.test" == resource.name
    assert b"A.Shops.test" in resource.resource.value
    assert b"a.shops.test" not in resource.resource.value.partition(b"-----BEGIN")[0]


async def test_two_spellings_on_one_stream_are_answered_and_acknowledged_each(server):
    client = Delta(server)
    server.names.learn({"a.shops.test": ["a.shops.test"]})
    server.publish("a.shops.test", 1, PAIR)
    await client.say(subscribe=["A.shops.test", "a.shops.test"])
    for _ in range(2):
        await client.say(nonce=(await client.hear()).nonce)
    await server.witness.until("accepted", "edge-1", "a.shops.test", 1, times=2)
    await client.say(unsubscribe=["A.shops.test"])
    await server.witness.until("unsubscribed", "edge-1", "a.shops.test")
    server.publish("a.shops.test", 2, authority().issue(dns=["a.shops.test"]))
    response = await client.hear()

    assert ["a.shops.test"] == [one.name for one in response.resources]


async def test_of_a_name_so_many_spellings_are_answered_and_its_own_always(server):
    """A client writes them, and an Envoy keeps what it has got: they would fill its stream."""
    client = Delta(server)
    server.names.learn({"abcdefgh.shops.test": ["abcdefgh.shops.test"]})
    server.publish("abcdefgh.shops.test", 1, PAIR)
    odd = [f"{'abcdefgh'[:n].upper()}{'abcdefgh'[n:]}.{dot}" for n in range(8) for dot in DOTS][1:]
    had, told = [], []
    for name in [*odd, "abcdefgh.shops.test"]:
        await client.say(subscribe=[name])
        response = await client.hear()
        had += [one.name for one in response.resources]
        told += response.removed_resources
        await client.say(nonce=response.nonce)

    assert [*odd[:MAX_SPELLINGS], "abcdefgh.shops.test"] == had
    assert odd[MAX_SPELLINGS:] == told

    await client.say(unsubscribe=[*told, odd[0]])
    await client.say(subscribe=[odd[-1]])

    assert [odd[-1]] == [one.name for one in (await client.hear()).resources]


async def test_all_spellings_of_a_name_count_as_one_of_those_that_an_identity_may_want(server):
    server.grants = Grants([Grant(EDGE, ("*.shops.test",), max_names=2)])
    server.names.learn({name: [name] for name in ("a.shops.test", "b.shops.test")})
    server.publish("a.shops.test", 1, PAIR)
    server.publish("b.shops.test", 1, authority().issue(dns=["b.shops.test"]))
    client, had = Delta(server), []
    for name in ("A.shops.test", "a.Shops.test", "a.sHops.test", "b.shops.test"):
        await client.say(subscribe=[name])
        response = await client.hear()
        had += [one.name for one in response.resources]
        await client.say(nonce=response.nonce)

    assert ["A.shops.test", "a.Shops.test", "a.sHops.test", "b.shops.test"] == had


async def test_state_of_the_world_wishes_for_nothing(server):
    """It has no way to say that a name is absent: whoever asks so waits for a Secret as ever."""
    server.issue = True
    call = server.channel().stream_stream(STATE_OF_THE_WORLD)()
    message = pb.DiscoveryRequest(node=Node(id="n"), type_url=TYPE_URL, resource_names=["b.shops.test"])
    await call.write(message.SerializeToString())
    await server.witness.until("subscribed", "n", "b.shops.test")

    assert server.names.next_wish() is None
    call.cancel()


async def test_a_wish_is_told_of_once_it_is_a_secret(server):
    server.issue = True
    client = Delta(server)
    await client.say(subscribe=["b.shops.test"])
    async with asyncio.timeout(TIMEOUT_S):
        while (wish := server.names.next_wish()) is None:
            await asyncio.sleep(0.01)

    assert [] == server.witness.facts
    assert (EDGE, "edge-1", "b.shops.test") == (wish.identity, wish.node_id, wish.name)

    server.names.settle(wish, Verdict(Result.CREATED))
    await server.witness.until("subscribed", "edge-1", "b.shops.test")
    server.publish("b.shops.test", 1, PAIR)

    assert ["b.shops.test"] == [one.name for one in (await client.hear()).resources]


async def test_a_name_outside_of_the_grant_is_denied_before_any_rule_is_asked(server):
    server.issue = True
    server.grants = Grants([Grant(EDGE, ("other",))])
    client = Delta(server)
    await client.say(subscribe=["b.shops.test"])

    assert ["b.shops.test"] == (await client.hear()).removed_resources
    assert server.names.next_wish() is None
