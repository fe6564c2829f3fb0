"""The engine against Caddy (smallstep's ACME server): an internal CA that leaves a failed name pending."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from acme_engine import Actor, Client, KeyType, OrderFailed, errors, keys
from acme_engine.ordering import Terms
from sds_server.errors import ConfigError
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support import pki
from tests.support.acme import Crash, MemoryJournal, Orderer, Tokens, responding

LIFETIME = timedelta(hours=2)


@pytest.fixture(scope="module")
def responder_port():
    return free_port()


@pytest.fixture(scope="module")
def caddy(tmp_path_factory, responder_port):
    # In this thread, not in a loop's: the child dies with the thread that started it.
    running = Caddy(
        tmp_path_factory.mktemp("caddy"), responder=f"127.0.0.1:{responder_port}", lifetime=LIFETIME
    )
    asyncio.run(running.ready())
    yield running
    asyncio.run(running.stop())


@asynccontextmanager
async def account(caddy):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(caddy.directory_url, account_key=key, ca_file=caddy.ca_file) as client:
        await client.register(terms_agreed=True)
        yield client


def requests(caddy, path):
    lines = (json.loads(line) for line in caddy.access_log.read_text().splitlines())
    return sum(line["request"]["uri"].endswith(path) and line["status"] < 300 for line in lines)


async def test_a_certificate_is_obtained_without_any_name_resolving(caddy, responder_port):
    """Its validator asks our responder in absolute form, through HTTP_PROXY."""
    tokens = Tokens()
    async with account(caddy) as client, responding(tokens, port=responder_port):
        orderer = Orderer(client, ["www.example.test", "example.test"], tokens)
        got = await orderer.obtain(MemoryJournal())

    assert set(got.names) == set(orderer.names)
    assert got.not_after - got.not_before <= LIFETIME + timedelta(minutes=2)
    assert tokens == {}


async def test_a_certificate_begins_and_ends_when_the_order_says(caddy, responder_port):
    """Its own lifetime is what it issues where nobody says one."""
    tokens = Tokens()
    terms = Terms(lifetime=timedelta(hours=4), backdate=timedelta(hours=1))
    async with account(caddy) as client, responding(tokens, port=responder_port):
        got = await Orderer(client, ["dated.example.test"], tokens, terms=terms).obtain(MemoryJournal())

    assert timedelta(hours=5) == got.not_after - got.not_before


@pytest.mark.parametrize("step", ["ordered", "finalizing", "issued"])
async def test_an_order_that_a_crash_left_is_resumed_and_finalized_once(caddy, responder_port, step):
    tokens = Tokens()
    orders, finalized = requests(caddy, "/new-order"), requests(caddy, "/finalize")
    async with account(caddy) as client, responding(tokens, port=responder_port):
        orderer = Orderer(client, [f"{step}.example.test"], tokens)
        crashed = MemoryJournal(crash_after=step)
        with pytest.raises(Crash):
            await orderer.obtain(crashed)
        got = await orderer.obtain(MemoryJournal(), order_url=crashed.order_url)

    assert got.names == (f"{step}.example.test",)
    assert requests(caddy, "/new-order") - orders == 1
    assert requests(caddy, "/finalize") - finalized == 1


async def test_a_name_is_answered_again_once_the_responder_is_there(caddy, responder_port):
    """Caddy says "pending", with an error, until the challenge is posted again."""
    tokens = Tokens()
    async with account(caddy) as client:
        orderer = Orderer(client, ["late.example.test"], tokens)
        task = asyncio.create_task(orderer.obtain(MemoryJournal()))
        while "challenge.refused" not in [name for name, _ in orderer.steps]:
            await asyncio.sleep(0.01)
        async with responding(tokens, port=responder_port):
            got = await task

    assert got.names == ("late.example.test",)


async def test_a_name_that_stays_unproved_fails_in_the_ca_s_words(caddy):
    """Bounded: three answers, then the problem, which names the guilty name."""
    async with account(caddy) as client:
        orderer = Orderer(client, ["dark.example.test"], Tokens())
        with pytest.raises(OrderFailed) as failure:
            await orderer.obtain(MemoryJournal())

    assert [name for name, _ in orderer.steps].count("challenge.answered") == 3
    assert failure.value.problem.code == "connection"
    assert failure.value.problem.identifier == "dark.example.test"
    assert failure.value.actor is Actor.OWNER


async def test_an_order_that_the_ca_does_not_know_has_failed(caddy):
    async with account(caddy) as client:
        orderer = Orderer(client, ["gone.example.test"], Tokens())
        gone = caddy.directory_url.replace("/directory", "/order/unknown")
        with pytest.raises(OrderFailed, match="does not have the order"):
            await orderer.obtain(MemoryJournal(), order_url=gone)


async def test_a_wrong_ca_file_is_a_clear_error(caddy, tmp_path):
    other = pki.authority("Another").write(tmp_path / "other.pem")
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(caddy.directory_url, account_key=key, ca_file=other) as client:
        with pytest.raises(errors.Untrusted, match="does not verify"):
            await client.directory()


async def test_the_root_outlives_a_restart(tmp_path):
    """What was trusted yesterday is trusted today: the demonstration restarts it."""
    roots = []
    for _ in range(2):
        running = await Caddy.start(tmp_path, responder="127.0.0.1:1")
        roots.append(running.ca_file.read_bytes())
        await running.stop()

    assert roots[0] == roots[1]


def test_a_life_that_it_cannot_issue_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="live from"):
        Caddy(tmp_path, responder="127.0.0.1:1", lifetime=timedelta(minutes=4))


async def test_caddy_does_not_clean_its_storage_while_it_starts(tmp_path):
    """Its cleaner took the folder of the certificate that was being made: no answer for a minute."""
    caddy = await Caddy.start(tmp_path, responder="127.0.0.1:1")
    await caddy.stop()

    log = (tmp_path / "caddy.log").read_text()
    assert '"msg":"cleaning storage unit"' not in log
    assert "storage cleaning happened too recently" in log
