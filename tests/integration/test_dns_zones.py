"""Where a record is, and whether all of its servers have it: asked of real BINDs."""

import asyncio
from contextlib import AsyncExitStack, contextmanager

import pytest

from acme_engine.dns import servers
from acme_engine.dns.propagation import served
from acme_engine.dns.table import provider_of
from acme_engine.dns.zones import Zones
from acme_engine.dns01 import Dns01Solver, Mode, Propagation, record_value
from acme_engine.errors import ZoneNotFound
from acme_engine.messages import Identifier
from sds_server.programs.child import free_port
from tests.support.bind import Bind, Zone
from tests.support.dns_memory import MemoryLedger
from tests.support.dns_server import DnsServer, relay, resolver, serving

pytestmark = pytest.mark.debian

SECOND = "127.0.0.2"
CHALLENGE = "_acme-challenge"


@contextmanager
def impatient():
    """Servers that are silent are given up at once: their time-outs are real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "UDP_TIMEOUT_S", 0.05)
        patch.setattr(servers, "TCP_TIMEOUT_S", 0.05)
        yield


class Turned:
    """A clock that moves when somebody sleeps; what is done meanwhile is done for real."""

    def __init__(self, *, meanwhile=None):
        self.now, self.slept, self._meanwhile = 0.0, [], meanwhile

    def monotonic(self):
        return self.now

    async def sleep(self, pause_s):
        self.now += pause_s
        self.slept.append(pause_s)
        if self._meanwhile is not None:
            await self._meanwhile(self.now)


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


async def started(stack, directory, zones, port=None):
    bind = await Bind.start(directory, zones, port=port)
    stack.push_async_callback(bind.stop)
    return bind


@pytest.fixture
async def bind(stack, tmp_path):
    """example.test with a zone below it, and other.test, to which some of its names lead."""
    return await started(
        stack,
        tmp_path / "bind",
        [
            Zone(
                "example.test",
                [
                    f"{CHALLENGE}.alias CNAME here.other.test.",
                    f"{CHALLENGE}.twice CNAME {CHALLENGE}.alias",
                    f"{CHALLENGE}.round CNAME {CHALLENGE}.about",
                    f"{CHALLENGE}.about CNAME {CHALLENGE}.round",
                    "moved DNAME other.test.",
                    "sub NS ns1",
                ],
            ),
            Zone("sub.example.test"),
            Zone("other.test"),
        ],
    )


@pytest.fixture
async def recursive(stack, bind):
    zones = dict.fromkeys(["example.test", "sub.example.test", "other.test"], bind.port)
    return await stack.enter_async_context(serving(DnsServer(resolver(zones)), port=free_port()))


@pytest.fixture
def zones(bind, recursive):
    return Zones(resolvers=[recursive.address], port=bind.port)


@pytest.mark.parametrize(
    ("name", "owner", "zone"),
    [
        ("www.example.test", f"{CHALLENGE}.www.example.test", "example.test"),
        ("example.test", f"{CHALLENGE}.example.test", "example.test"),
        ("a.b.c.example.test", f"{CHALLENGE}.a.b.c.example.test", "example.test"),
        ("sub.example.test", f"{CHALLENGE}.sub.example.test", "sub.example.test"),
        ("www.sub.example.test", f"{CHALLENGE}.www.sub.example.test", "sub.example.test"),
        ("alias.example.test", "here.other.test", "other.test"),
        ("twice.example.test", "here.other.test", "other.test"),
        ("www.moved.example.test", f"{CHALLENGE}.www.other.test", "other.test"),
    ],
)
async def test_the_record_is_where_the_aliases_lead_in_the_closest_zone(zones, bind, name, owner, zone):
    place = await zones.place(f"{CHALLENGE}.{name}")

    assert (owner, zone) == (place.owner, place.zone)
    assert [("127.0.0.1", bind.port)] == [(server.host, server.port) for server in place.servers]


async def test_aliases_that_go_round_are_refused_with_their_way(zones):
    with pytest.raises(ZoneNotFound, match="do not end") as e:
        await zones.place(f"{CHALLENGE}.round.example.test")

    assert f"{CHALLENGE}.about.example.test -> {CHALLENGE}.round.example.test" in str(e.value)


async def test_the_resolver_is_not_asked_for_a_name_that_is_not_there(zones, recursive):
    """It would deny the value for as long as the zone's SOA says, also to a CA that asks it."""
    await zones.place(f"{CHALLENGE}.www.example.test")

    assert [] == [asked for asked in recursive.asked if "www" in asked or CHALLENGE in asked]


async def test_a_name_outside_of_every_zone_is_an_error_with_the_resolvers_words(zones):
    with pytest.raises(ZoneNotFound, match="SERVFAIL"):
        await zones.place(f"{CHALLENGE}.www.nowhere.invalid")


async def test_servers_that_are_named_need_no_resolver(bind):
    """Behind a split horizon the NS records say something else."""
    zones = Zones(resolvers=["127.0.0.1:1"], servers=[bind.address])
    place = await zones.place(f"{CHALLENGE}.alias.example.test")

    assert ("here.other.test", "other.test") == (place.owner, place.zone)
    assert [bind.port] == [server.port for server in place.servers]


@pytest.fixture
async def pair(stack, tmp_path):
    """A primary, and a secondary that only learns of a change when it is told."""
    port = free_port()
    records = ["@ NS ns2", f"ns2 A {SECOND}"]
    primary = await started(stack, tmp_path / "one", [Zone("example.test", records)], port)
    secondary = await started(stack, tmp_path / "two", [Zone("example.test", primary_port=port)], free_port())
    front = DnsServer(relay(secondary.port), cuts_udp=True)
    await stack.enter_async_context(serving(front, host=SECOND, port=port))
    ask = DnsServer(resolver({"example.test": port}))
    await stack.enter_async_context(serving(ask, port=free_port()))
    return primary, secondary, front, Zones(resolvers=[ask.address], port=port)


OWNER = f"{CHALLENGE}.www.example.test"


async def looked(zones, clock, value="value", limit_s=600.0):
    place = await zones.place(OWNER)
    return await served(
        OWNER, value, place.servers, limit_s=limit_s, sleep=clock.sleep, monotonic=clock.monotonic
    )


async def test_a_value_counts_when_the_slowest_server_has_it(pair):
    primary, secondary, front, zones = pair
    provider = provider_of("rfc2136", primary.settings)
    await provider.add(OWNER, "old")
    await provider.add(OWNER, "value")
    seen_at = []

    async def meanwhile(now):
        if now >= 15 and not seen_at:
            seen_at.append(now)
            await secondary.told_of_change("example.test")
            while "value" not in await secondary.txt(OWNER):
                await asyncio.sleep(0.01)

    clock = Turned(meanwhile=meanwhile)
    verdict = await looked(zones, clock)

    assert verdict.served
    assert "all servers have it: 2" == verdict.reason
    assert seen_at == [clock.now], "not before"
    assert front.over_tcp > 0, "what is cut short over UDP is asked over TCP"


async def test_a_server_that_never_has_it_is_named_at_the_limit(pair):
    primary, _, _, zones = pair
    await provider_of("rfc2136", primary.settings).add(OWNER, "value")
    clock = Turned()
    verdict = await looked(zones, clock)

    assert not verdict.served
    assert f"ns2.example.test ({SECOND} port {primary.port}) does not have it" == verdict.reason
    assert 590 <= clock.now <= 600


async def test_another_value_at_the_name_is_not_ours(pair):
    primary, _, _, zones = pair
    await provider_of("rfc2136", primary.settings).add(OWNER, "VALUE")
    verdict = await looked(zones, Turned(), limit_s=0.0)

    assert "ns1.example.test (127.0.0.1" in verdict.reason
    assert "does not have it, but 1 others" in verdict.reason


async def test_a_server_that_does_not_answer_is_passed_over_after_a_while(pair):
    """A resolver asks the next one then; one that answers without the value is never passed over."""
    primary, _, front, zones = pair
    await provider_of("rfc2136", primary.settings).add(OWNER, "value")
    front.silent = True
    place = await zones.place(OWNER)
    clock = Turned()
    with impatient():
        verdict = await served(
            OWNER, "value", place.servers, limit_s=600, sleep=clock.sleep, monotonic=clock.monotonic
        )

    assert verdict.served
    assert "1 have it; passed over: ns2.example.test" in verdict.reason
    assert 60 <= clock.now < 75


async def test_a_resolver_is_asked_only_when_every_server_has_the_value(stack, bind, recursive):
    """This one denies for ever what it was asked too early."""
    provider, ledger = provider_of("rfc2136", bind.settings), MemoryLedger()
    clock = Turned()
    solver = Dns01Solver(
        provider,
        ledger,
        zones=Zones(resolvers=[recursive.address], port=bind.port),
        propagation=Propagation(Mode.RECURSIVE),
        sleep=clock.sleep,
        monotonic=clock.monotonic,
    )
    proof = Identifier("dns", "alias.example.test"), None, "token.thumbprint"
    await solver.present(*proof)

    assert "alias" not in str(recursive.asked)
    assert [("here.other.test", record_value("token.thumbprint"))] == ledger.rows

    await solver.ready(*proof)

    assert f"{CHALLENGE}.alias.example.test TXT" in recursive.asked

    await solver.cleanup(*proof)

    assert (set(), []) == (await bind.txt("here.other.test"), ledger.rows)
