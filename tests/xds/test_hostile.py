"""Clients that mean harm: they never leak anything, end the server, or hold up the streams of others."""

import asyncio
import sys
import time

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sds_server.identity import Grant, Grants
from sds_server.programs.child import Child
from sds_server.xds.catalog import ABSENT, Resource
from sds_server.xds.server import FETCH, SDS
from tests.support.hostile import KINDS
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed
from tests.xds.test_fetch import https, url
from tests.xds.test_server import METHODS, Client, open_stream

HOSTILE = "spiffe://td.test/hostile"
PUSHES = 40
DELAY_S = 10.0
"""What a push may take while somebody attacks, on a machine that is busy with other tests; on one that is not
it is a tenth of a second at most. What it took is printed."""

PAIR = authority().issue(dns=["a.test"])


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path) as deployment:
        deployment.grants = Grants(
            [Grant(EDGE, ("a",)), Grant(HOSTILE, tuple(str(number) for number in range(2_000)))]
        )
        deployment.catalog.on_want = lambda name: deployment.catalog.publish({name: ABSENT})
        yield deployment


class Victim:
    """An honest client: it times each push from the moment when it can be sent."""

    def __init__(self, server, client):
        self.server, self.client = server, client
        self.delays = []

    @classmethod
    async def come(cls, server):
        server.publish("a", 1, PAIR)
        client = await open_stream(server, node="victim", names=["a"])
        victim = cls(server, client)
        await client.send(node="", nonce=(await client.receive()).nonce)
        return victim

    async def pushed(self, generation):
        body = self.server.catalog.look("a").body
        started = time.perf_counter()
        self.server.catalog.publish({"a": Resource("a", f"v{generation}", generation, body)})
        response = await self.client.receive()
        self.delays.append(time.perf_counter() - started)
        assert f"v{generation}" == response.system_version_info
        await self.client.send(node="", nonce=response.nonce)


@pytest.mark.parametrize("kind", KINDS)
async def test_others_get_their_secrets_meanwhile(server, tmp_path, kind):
    if kind == "unread":  # something to choke on
        server.catalog.publish({str(n): Resource(str(n), "v1", 1, b"x" * 10_000) for n in range(2_000)})
    victim = await Victim.come(server)
    for generation in range(2, PUSHES):
        await victim.pushed(generation)
    quiet, victim.delays = max(victim.delays), []
    chain, key = server.clients_ca.issue(uris=[HOSTILE]).write(tmp_path, "hostile")
    ca = server.servers_ca.write(tmp_path / "servers.pem")
    argv = [sys.executable, "-m", "tests.support.hostile", kind, str(server.port), ca, chain, key]
    attacker = Child("hostile", argv, log=tmp_path / "hostile.log", pdeathsig="KILL")
    try:
        if kind not in {"pings", "huge", "noise"}:
            async with asyncio.timeout(TIMEOUT_S):
                while not [fact for fact in server.witness.facts if fact[1] == "hostile"]:
                    await asyncio.sleep(0.01)
        for generation in range(PUSHES, 2 * PUSHES):
            await victim.pushed(generation)
            await asyncio.sleep(0.05)  # spread over some seconds of the attack
        assert attacker.running, (tmp_path / "hostile.log").read_text()
    finally:
        attacker.kill()
    told = f"slowest push {max(victim.delays) * 1e3:.0f} ms, {quiet * 1e3:.0f} ms before"
    print(f"{kind}: {told}")

    assert max(victim.delays) < DELAY_S, told
    assert [] == [fact for fact in server.witness.facts if fact[:2] == ("sent", "hostile") and fact[2] == "a"]
    await victim.client.leave()


# ---------------------------------------------------------------- fuzz

SECRET = b"PRIVATE KEY"
requests = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda node, names, nonce, kind, delta: (
            pb.DeltaDiscoveryRequest(
                node=Node(id=node),
                resource_names_subscribe=names,
                resource_names_unsubscribe=names[:1],
                response_nonce=nonce,
                type_url=kind,
            )
            if delta
            else pb.DiscoveryRequest(
                node=Node(id=node), resource_names=names, response_nonce=nonce, type_url=kind
            )
        ).SerializeToString(),
        st.sampled_from(["", "n", "edge\x00", "n" * 600]),
        st.lists(st.sampled_from(["", "*", "a", "b", "x" * 513, "\x07", "ü"]), max_size=6),
        st.text(max_size=5),
        st.sampled_from(["", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "x"]),
        st.booleans(),
    ),
)


@pytest.fixture(scope="module")
def loop_of_all():
    """One server for all examples: it has to live through all of them."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def running(loop_of_all, tmp_path_factory):
    context = deployed(tmp_path_factory.mktemp("fuzz"))
    server = loop_of_all.run(context.__aenter__())
    server.grants = Grants([Grant(EDGE, ("a",))])
    server.publish("a", 1, PAIR)
    yield server
    loop_of_all.run(context.__aexit__(None, None, None))


fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(method=st.sampled_from([*METHODS, f"/{SDS}/{FETCH}"]), said=st.lists(requests, min_size=1, max_size=4))
def test_no_bytes_leak_a_key_to_who_has_no_right_or_end_the_server(loop_of_all, running, method, said):
    loop_of_all.run(_fuzz(running, method, said))


async def _fuzz(server, method, said):
    stranger = server.clients_ca.issue(uris=[HOSTILE])
    async with server.channel(stranger) as channel:
        call = channel.stream_stream(method)()
        answers = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for data in said:
                    await call.write(data)
                await call.done_writing()
                answers += [answer async for answer in call]
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            assert await call.code() in {
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.INTERNAL,  # more than one message to a unary method
            }
            assert len(await call.details()) < 200
    assert not [answer for answer in answers if SECRET in answer]
    async with server.channel() as channel:
        request = pb.DiscoveryRequest(node=Node(id="n"), resource_names=["a"]).SerializeToString()
        assert SECRET in await channel.unary_unary(f"/{SDS}/{FETCH}")(request, timeout=TIMEOUT_S)


@fuzzed
@given(body=st.one_of(st.binary(max_size=300), st.text(max_size=50).map(str.encode)))
def test_no_body_of_a_poll_ends_the_server(loop_of_all, running, body):
    async def fuzz():
        async with https(running) as http, http.post(url(running), data=body) as response:
            assert response.status == 400
            assert SECRET not in await response.read()

    loop_of_all.run(fuzz())


async def test_three_thousand_streams_at_once_and_none_is_lost(server):
    """Over thirty connections, as a fleet outside of ADS comes back: one stream a secret."""
    server.publish("a", 1, PAIR)
    channels = [server.channel() for _ in range(30)]
    clients = [Client(channel, METHODS[1]) for channel in channels for _ in range(100)]
    started = time.perf_counter()

    async def comes(number, client):
        await client.send(node=f"n{number}", names=["a"])
        assert "a" == (await client.receive()).resources[0].name

    async with asyncio.timeout(240):
        await asyncio.gather(*(comes(number, client) for number, client in enumerate(clients)))
    took_s = time.perf_counter() - started
    print(f"3,000 streams, each with its secret, after {took_s:.1f} s; the clients are in the same process")

    assert 3_000 == server.server.streams
    for channel in channels:
        await channel.close()
