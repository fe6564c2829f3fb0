"""A real Envoy 1.40 whose certificate selector asks for what its clients name, by both forms of delta."""

import asyncio
import ssl
import time
from random import Random

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server.clock import SystemClock
from sds_server.identity import Grant, Grants
from sds_server.on_demand.names import Names
from sds_server.on_demand.rules import Result, Rule, Verdict
from sds_server.programs import envoy
from sds_server.xds.bootstrap import Api, OnDemandListener, bootstrap
from sds_server.xds.catalog import ABSENT, PENDING
from sds_server.xds.cluster import ControlPlane
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed

SITES = authority("Sites")
NODE = "edge-1"
SHOPS = Rule("shops", "ca", suffix=".shops.test")

pytestmark = pytest.mark.parametrize("api", [Api.ADS, Api.DELTA])


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path, names=["*.shops.test", "wild"]) as deployment:
        names = Names([SHOPS], clock=SystemClock(), may_issue=lambda _identity, _name: True)
        deployment.names = names
        await deployment.stop()
        await deployment.start()
        yield deployment


@pytest.fixture
async def edge(server, api, tmp_path):
    certificate, key = server.clients_ca.issue(uris=[EDGE]).write(server.directory, "edge")
    config = bootstrap(
        node_id=NODE,
        cluster="edge",
        api=api,
        control_plane=ControlPlane(
            host="127.0.0.1",
            port=server.port,
            server_name="localhost",
            ca=server.servers_ca.write(server.directory / "servers.pem"),
            certificate=certificate,
            private_key=key,
        ),
        listeners=[OnDemandListener("https")],
    )
    running = await envoy.start(config, tmp_path)
    async with asyncio.timeout(TIMEOUT_S):
        while not await running.live():
            await asyncio.sleep(0.02)
    yield running
    await running.stop()


def known(server, **secrets):
    """What the inventory would say that there is, by name: its DNS names."""
    server.names.learn({name.replace("_", "."): domains for name, domains in secrets.items()})


async def handshake(edge, name):
    """Return the DER of the leaf that a client sees that asks for the name; None: no handshake."""
    context = ssl.create_default_context(cadata=SITES.pem.decode())
    context.check_hostname = False
    port = await edge.listener_port("https")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    except (OSError, ssl.SSLError):
        return None
    leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return leaf


def der(pair):
    return ssl.PEM_cert_to_DER_cert(pair.chain_pem.decode())


async def until_served(edge, name, pair):
    async with asyncio.timeout(TIMEOUT_S):
        while await handshake(edge, name) != der(pair):
            await asyncio.sleep(0.02)


async def wished(server):
    async with asyncio.timeout(TIMEOUT_S):
        while (wish := server.names.next_wish()) is None:
            await asyncio.sleep(0.01)
    return wish


async def test_a_name_that_there_is_is_served_at_the_first_handshake(server, edge):
    pair = SITES.issue(dns=["a.shops.test"])
    known(server, a_shops_test=["a.shops.test"])
    server.publish("a.shops.test", 1, pair)

    assert der(pair) == await handshake(edge, "a.shops.test")
    await server.witness.until("accepted", NODE, "a.shops.test", 1)


async def test_the_spelling_is_the_clients_and_the_secret_ours(server, edge):
    pair = SITES.issue(dns=["a.shops.test"])
    known(server, a_shops_test=["a.shops.test"])
    server.publish("a.shops.test", 1, pair)

    assert [der(pair)] * 2 == [await handshake(edge, name) for name in ("a.shops.test", "A.Shops.TEST")]
    await server.witness.until("accepted", NODE, "a.shops.test", 1, times=2)


async def test_a_wildcard_answers_for_whatever_it_covers(server, edge):
    pair, again = SITES.issue(dns=["*.shops.test"]), SITES.issue(dns=["*.shops.test"])
    known(server, wild=["*.shops.test"])
    server.publish("wild", 1, pair)

    assert [der(pair)] * 2 == [await handshake(edge, name) for name in ("x.shops.test", "y.shops.test")]
    await server.witness.until("accepted", NODE, "wild", 1, times=2)

    server.publish("wild", 2, again)
    for name in ("x.shops.test", "y.shops.test"):
        await until_served(edge, name, again)


async def test_the_key_of_a_wildcard_is_for_who_may_see_that(server, edge):
    server.grants = Grants([Grant(EDGE, ("*.shops.test",))])
    known(server, wild=["*.shops.test"])
    server.publish("wild", 1, SITES.issue(dns=["*.shops.test"]))
    waiting = asyncio.create_task(handshake(edge, "x.shops.test"))
    wish = await wished(server)  # to others the name is as any that there is not yet
    server.names.settle(wish, Verdict(Result.REFUSED))

    assert await waiting is None
    assert [] == [fact for fact in server.witness.facts if fact[0] == "sent"]


async def test_a_name_that_there_is_not_fails_at_once_and_is_asked_for_again(server, edge):
    """Envoy remembers no miss: each handshake asks, and a later one finds what was made meanwhile."""
    server.names._may_issue = lambda _identity, _name: False
    took_s = []
    for _ in range(3):
        started = time.perf_counter()
        assert await handshake(edge, "a.shops.test") is None
        took_s.append(time.perf_counter() - started)

    assert min(took_s) < 0.2

    pair = SITES.issue(dns=["a.shops.test"])
    known(server, a_shops_test=["a.shops.test"])
    server.publish("a.shops.test", 1, pair)

    assert der(pair) == await handshake(edge, "a.shops.test")


async def test_a_handshake_waits_for_what_is_being_issued(server, edge):
    waiting = asyncio.create_task(handshake(edge, "a.shops.test"))
    wish = await wished(server)
    server.catalog.publish({"a.shops.test": PENDING})
    server.names.settle(wish, Verdict(Result.CREATED))
    await server.witness.until("subscribed", NODE, "a.shops.test")
    await asyncio.sleep(0.5)

    assert not waiting.done()

    pair = SITES.issue(dns=["a.shops.test"])
    server.publish("a.shops.test", 1, pair)

    assert der(pair) == await waiting


async def test_a_wish_that_is_not_granted_ends_the_handshake(server, edge):
    waiting = asyncio.create_task(handshake(edge, "a.shops.test"))
    wish = await wished(server)
    server.names.settle(wish, Verdict(Result.REFUSED))

    assert await waiting is None
    assert [] == [fact for fact in server.witness.facts if fact[0] == "subscribed"]


async def test_what_is_removed_is_served_no_more_and_what_is_made_again_is(server, edge, api):
    pair, again = SITES.issue(dns=["a.shops.test"]), SITES.issue(dns=["a.shops.test"])
    known(server, a_shops_test=["a.shops.test"])
    server.publish("a.shops.test", 1, pair)
    await until_served(edge, "a.shops.test", pair)
    known(server)
    server.catalog.publish({"a.shops.test": ABSENT})
    # Outside of ADS a name is a stream, which ends with it.
    await server.witness.until("unsubscribed" if api is Api.ADS else "disconnected", NODE, "a.shops.test")

    assert server.names.next_wish() is None  # it was deleted under who had it

    waiting = asyncio.create_task(handshake(edge, "a.shops.test"))
    wish = await wished(server)
    server.publish("a.shops.test", 2, again)
    server.names.settle(wish, Verdict(Result.CREATED))

    assert der(again) == await waiting


async def test_five_hundred_made_up_names_are_told_at_once_and_leave_nothing(server, edge):
    """The name that there is is served meanwhile."""
    pair = SITES.issue(dns=["a.shops.test"])
    known(server, a_shops_test=["a.shops.test"])
    server.publish("a.shops.test", 1, pair)
    await until_served(edge, "a.shops.test", pair)
    server.names._may_issue = lambda _identity, _name: False
    rng, limit = Random(5), asyncio.Semaphore(20)

    async def ask():
        async with limit:
            return await handshake(edge, f"{rng.getrandbits(40):x}.shops.test")

    started = time.perf_counter()
    answers = await asyncio.gather(*(ask() for _ in range(500)))
    took_s = time.perf_counter() - started

    assert {None} == set(answers)
    assert took_s < 30
    assert der(pair) == await handshake(edge, "a.shops.test")
    assert server.names.next_wish() is None
    async with asyncio.timeout(TIMEOUT_S):
        while {*server.names._watchers} != {"a.shops.test"}:
            await asyncio.sleep(0.02)
