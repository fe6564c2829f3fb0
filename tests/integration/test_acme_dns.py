"""DNS-01 from the order to the chain: two real CAs that ask a real BIND, which we update.

They ask it by a resolver that never forgets a denial: who looks too early is found out.
"""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from acme_engine import Client, KeyType, OrderFailed, keys
from acme_engine.dns.table import provider_of
from acme_engine.dns.zones import Zones
from acme_engine.dns01 import Dns01Solver, Mode, Propagation
from acme_engine.dns_account01 import DnsAccount01Solver
from acme_engine.dns_records import account_record_name
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support import pebble
from tests.support.acme import Crash, MemoryJournal, Orderer, Tokens
from tests.support.bind import KEY_NAME, KEY_SECRET, Bind, Zone
from tests.support.ca_front import CaFront
from tests.support.dns_apis import SECRET
from tests.support.dns_memory import MemoryLedger
from tests.support.dns_server import DnsServer, resolver, serving
from tests.support.pdns import Pdns

pytestmark = pytest.mark.debian

OWNER = "_acme-challenge.example.test"
EXAMPLE = Path(__file__).parents[2] / "examples" / "dns01.py"


@pytest.fixture(scope="module")
def bind(tmp_path_factory):
    zones = [
        Zone("example.test", ["_acme-challenge.alias CNAME alias.validation.test."]),
        Zone("validation.test"),
        Zone("account.test", policy="zonesub TXT CNAME"),
    ]
    running = asyncio.run(Bind.start(tmp_path_factory.mktemp("bind"), zones))
    yield running
    asyncio.run(running.stop())


@pytest.fixture(scope="module")
def resolver_port():
    return free_port()


@pytest.fixture
async def pdns(tmp_path):
    running = await Pdns.start(tmp_path / "pdns", "pdns.test")
    yield running
    await running.stop()


@pytest.fixture(autouse=True)
async def recursive(bind, resolver_port):
    zones = dict.fromkeys(["example.test", "validation.test", "account.test"], bind.port)
    async with serving(DnsServer(resolver(zones)), port=resolver_port) as running:
        yield running


@pytest.fixture(scope="module")
def pebble_ca(tmp_path_factory, resolver_port):
    address = f"127.0.0.1:{resolver_port}"
    running = pebble.start(tmp_path_factory.mktemp("pebble"), kind=True, dns_server=address)
    yield running
    asyncio.run(running.stop())


@pytest.fixture(scope="module")
def caddy_ca(tmp_path_factory, resolver_port):
    # In this thread, not in a loop's: the child dies with the thread that started it.
    address = f"127.0.0.1:{resolver_port}"
    running = Caddy(tmp_path_factory.mktemp("caddy"), responder="127.0.0.1:1", resolver=address)
    asyncio.run(running.ready())
    yield running
    asyncio.run(running.stop())


@pytest.fixture(params=["pebble_ca", "caddy_ca"])
def ca(request):
    return request.getfixturevalue(request.param)


@asynccontextmanager
async def ordering(ca, bind, *names, propagation=None, provider=None, kind=Dns01Solver):
    ledger = MemoryLedger()
    solver = kind(
        provider or provider_of("rfc2136", bind.settings),
        ledger,
        zones=Zones(servers=[bind.address]),
        propagation=propagation,
    )
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(ca.directory_url, account_key=key, ca_file=ca.ca_file) as client:
        await client.register(terms_agreed=True)
        yield Orderer(client, [*names], Tokens(), solver=solver), ledger


async def test_a_name_and_its_wildcard_are_proved_in_one_order(ca, bind):
    """Two values at one name, both seen before the CA is told to look at either."""
    async with ordering(ca, bind, "example.test", "*.example.test") as (orderer, ledger):
        got = await orderer.obtain(MemoryJournal())

    assert {"example.test", "*.example.test"} == set(got.names)
    assert (set(), []) == (await bind.txt(OWNER), ledger.rows), "nothing is left"

    steps = [name for name, _ in orderer.steps if name.startswith("challenge.")]
    assert ["challenge.presented"] * 2 + ["challenge.ready"] * 2 == steps[:4]


async def test_a_name_and_its_wildcard_are_proved_in_one_order_at_powerdns(pebble_ca, pdns, recursive):
    """Its API knows whole sets only, and both values are added at once."""
    recursive._answer = resolver({"pdns.test": pdns.port})
    powerdns = provider_of("powerdns", {"endpoint": pdns.url, "api_key": SECRET})
    names = "pdns.test", "*.pdns.test"
    try:
        async with ordering(pebble_ca, pdns, *names, provider=powerdns) as (orderer, ledger):
            got = await orderer.obtain(MemoryJournal())
    finally:
        await powerdns.close()

    assert {*names} == set(got.names)
    assert (set(), []) == (await pdns.txt("_acme-challenge.pdns.test"), ledger.rows)


async def test_a_provider_that_hashes_by_itself_shows_what_the_ca_looks_for(ca, bind):
    """The provider is told the key authorization, and so is the ledger."""
    environment = (
        f"RFC2136_NAMESERVER={bind.address}\nRFC2136_TSIG_ALGORITHM=hmac-sha256.\n"
        f"RFC2136_TSIG_KEY={KEY_NAME}\nRFC2136_TSIG_SECRET={KEY_SECRET}\n"
    )
    settings = {"service": "rfc2136", "environment": environment, "lego_resolvers": bind.address}
    lego = provider_of("lego", settings)
    try:
        async with ordering(ca, bind, "*.example.test", provider=lego) as (orderer, ledger):
            got = await orderer.obtain(MemoryJournal())
    finally:
        await lego.close()

    assert ("*.example.test",) == got.names
    assert (set(), []) == (await bind.txt(OWNER), ledger.rows)


async def test_an_alias_leads_to_another_zone(ca, bind):
    async with ordering(ca, bind, "*.alias.example.test") as (orderer, ledger):
        got = await orderer.obtain(MemoryJournal())

    assert ("*.alias.example.test",) == got.names
    assert (set(), []) == (await bind.txt("alias.validation.test"), ledger.rows)


async def test_the_value_at_an_account_s_own_name_is_the_one_that_a_ca_looks_for(pebble_ca, bind, tmp_path):
    """draft-ietf-acme-dns-account-label: what Pebble asks for as dns-01 its door offers as dns-account-01.

    Pebble comes to the account's label by an alias, for it knows no other name than DNS-01's.
    """

    def renamed(document):
        for challenge in document.get("challenges", [document]):
            challenge["type"] = challenge["type"].replace("dns-01", "dns-account-01")
        return document

    front = CaFront(tmp_path, upstream=pebble_ca.directory_url, upstream_ca=pebble_ca.ca_file)
    front.change("/authZ", renamed)
    front.change("/chalZ", renamed)
    await front.open()
    try:
        names = "account.test", "*.account.test"
        async with ordering(front, bind, *names, kind=DnsAccount01Solver) as (orderer, ledger):
            own = account_record_name("account.test", orderer._client.account_url)
            await bind.alias("_acme-challenge.account.test", own, zone="account.test")
            got = await orderer.obtain(MemoryJournal())
    finally:
        await front.shut()

    assert {*names} == set(got.names)
    assert {"dns-account-01"} == {f["type"] for name, f in orderer.steps if name == "challenge.ready"}
    assert (set(), []) == (await bind.txt(own), ledger.rows)


async def test_others_values_at_the_name_are_left_alone(pebble_ca, bind):
    theirs = provider_of("rfc2136", bind.settings)
    await theirs.add(OWNER, "theirs")
    async with ordering(pebble_ca, bind, "*.example.test") as (orderer, _):
        await orderer.obtain(MemoryJournal())

    assert {"theirs"} == await bind.txt(OWNER)

    await theirs.remove(OWNER, "theirs")


async def test_what_a_ca_does_not_find_is_taken_away_all_the_same(pebble_ca, bind):
    """The mode that asks nobody believes a provider, and this one only says that it has added the value."""
    async with ordering(pebble_ca, bind, "*.www.example.test", propagation=Propagation(Mode.OFF)) as (
        orderer,
        ledger,
    ):

        async def nothing(_name, _value):
            """Say yes and do nothing."""

        orderer._solver._provider.add = nothing
        with pytest.raises(OrderFailed) as failure:
            await orderer.obtain(MemoryJournal())

    assert "*.www.example.test" == failure.value.problem.identifier
    assert [] == ledger.rows


@pytest.mark.parametrize("step", ["ordered", "finalizing", "issued"])
async def test_an_order_that_a_crash_left_is_resumed_and_leaves_nothing(pebble_ca, bind, step):
    issued = pebble_ca.issued()
    async with ordering(pebble_ca, bind, f"*.{step}.example.test") as (orderer, ledger):
        crashed = MemoryJournal(crash_after=step)
        with pytest.raises(Crash):
            await orderer.obtain(crashed)
        got = await orderer.obtain(MemoryJournal(), order_url=crashed.order_url)

    assert (f"*.{step}.example.test",) == got.names
    assert 1 == pebble_ca.issued() - issued
    assert (set(), []) == (await bind.txt(f"_acme-challenge.{step}.example.test"), ledger.rows)


async def test_the_example_of_the_library_runs(pebble_ca, bind, tmp_path):
    (tmp_path / "key").write_text(KEY_SECRET)
    arguments = [pebble_ca.directory_url, pebble_ca.ca_file, "example.test", bind.address, KEY_NAME]
    process = await asyncio.create_subprocess_exec(
        *map(str, [sys.executable, EXAMPLE, *arguments, tmp_path / "key"]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=EXAMPLE.parents[1],
        env={"PYTHONPATH": str(EXAMPLE.parents[1])},
    )
    printed = (await process.communicate())[0].decode()

    assert 0 == process.returncode, printed
    assert (
        "example.test, *.example.test: until " in printed or "*.example.test, example.test: until " in printed
    )
    assert 2 == printed.count("publishing  _acme-challenge.example.test TXT ")
    assert 2 == printed.count("removed     _acme-challenge.example.test TXT ")
