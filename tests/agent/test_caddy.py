"""The Caddy installer, on a real Caddy."""

import asyncio
import json

import aiohttp
import pytest

from sds_server.agent.installers.caddy import Caddy, CaddySettings
from sds_server.agent.installers.installer import NotRunning, Rejected
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import caddy
from tests.support.pairs import DOMAIN, Issuer, place, settings
from tests.support.traffic import Traffic


@pytest.fixture
def pairs(tmp_path):
    return tmp_path / "pairs"


@pytest.fixture
def issuer():
    return Issuer()


@pytest.fixture
def first(issuer):
    return issuer.next()


@pytest.fixture
async def started(tmp_path, pairs, first):
    running = []

    async def start(*, unix=True):
        at = place(pairs, first)
        proxy = caddy.Caddy(tmp_path, certificate=at.certificate, key=at.key, unix=unix)
        running.append(proxy)
        await proxy.start()
        return proxy

    yield start
    for proxy in running:
        await proxy.stop()


def installer(admin, **values):
    return Caddy(settings(CaddySettings, admin=admin, **values))


async def served(proxy):
    try:
        return await served_fingerprint(proxy.address, DOMAIN)
    except ProbeFailed:
        return None


@pytest.mark.parametrize("unix", [True, False])
async def test_a_rotation_costs_less_than_one_new_connection(started, issuer, pairs, unix):
    """Caddy ends the servers of the configuration before, and with them what is open and idle just then."""
    proxy = await started(unix=unix)
    installs = installer(proxy.admin)

    async with Traffic(proxy.address, DOMAIN) as traffic:
        for _ in range(20):
            pair = issuer.next()
            at = place(pairs, pair)
            await installs.load(pair, at)

            assert pair.fingerprint == await served(proxy)
            await traffic.more(20)

    print(traffic)
    assert traffic.failed + traffic.cut < 20, traffic.errors
    assert traffic.done > 20
    assert traffic.held > 20


async def test_what_caddy_refuses_is_told_in_its_words_and_the_old_one_served(started, issuer, first, pairs):
    proxy = await started()
    pair = issuer.next()
    at = place(pairs, pair)
    at.key.write_bytes(first.key_pem.reveal())  # the gate is before this

    with pytest.raises(Rejected, match="private key does not match public key"):
        await installer(proxy.admin).load(pair, at)

    assert first.fingerprint == await served(proxy)


async def test_validate_is_asked_and_its_reason_told(started, issuer, first, pairs):
    proxy = await started()
    pair = issuer.next()
    at = place(pairs, pair)
    installs = installer(proxy.admin, check=proxy.validate)
    await installs.check(pair, at)
    at.key.write_bytes(first.key_pem.reveal())

    with pytest.raises(Rejected, match=r"^loading .*private key does not match public key$"):
        await installs.check(pair, at)


async def test_what_somebody_else_loads_meanwhile_is_not_undone(started, issuer, pairs):
    """The configuration is loaded again only if it is still the one that runs."""
    proxy = await started()
    url = "http://localhost/config/"
    installs = installer(proxy.admin)
    connector = aiohttp.UnixConnector(proxy.admin.removeprefix("unix/"), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(method, **body):
            """Ask again where Caddy, which opens its admin API anew with each load, hung up."""
            async with asyncio.timeout(10):
                while True:
                    try:
                        async with session.request(method, url, **body) as answer:
                            return answer.status, await answer.read()
                    except (aiohttp.ClientError, OSError):
                        await asyncio.sleep(0.01)

        running = json.loads((await ask("GET"))[1])

        async def operator():
            for size in range(20):
                running["logging"] = {"logs": {"default": {"sampling": {"first": size + 1}}}}
                assert 200 == (await ask("POST", json=running))[0]

        async def agent():
            for _ in range(20):
                pair = issuer.next()
                at = place(pairs, pair)
                await installs.load(pair, at)
                # Once more for a connection that ended with the operator's configuration before.
                assert pair.fingerprint == (await served(proxy) or await served(proxy))

        await asyncio.gather(operator(), agent())

        after = json.loads((await ask("GET"))[1])

    assert 20 == after["logging"]["logs"]["default"]["sampling"]["first"]


async def test_a_caddy_that_does_not_run_is_no_fault_of_the_pair(issuer, pairs, tmp_path):
    pair = issuer.next()
    at = place(pairs, pair)

    with pytest.raises(NotRunning):
        await installer(f"unix/{tmp_path}/nobody.sock").load(pair, at)
    with pytest.raises(NotRunning):
        await installer("http://127.0.0.1:9").load(pair, at)
