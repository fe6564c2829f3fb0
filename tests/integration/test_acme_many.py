"""Many orders at once at Pebble: none is lost to a CA that refuses nonces, and what one costs, as counts."""

import asyncio

import pytest

from acme_engine import KeyType, keys
from tests.support.acme import MemoryJournal, OneByOne, Orderer, Tokens, responding, some_at_once
from tests.support.pebble import start
from tests.support.tunnel import tunnel

pytestmark = pytest.mark.debian

REFUSED_PERCENT = 50
REQUESTS = 7
"""newOrder, authorization, challenge, authorization, finalize, order, certificate."""


@pytest.fixture
def kind(tmp_path):
    running = start(tmp_path, kind=True)
    yield running
    asyncio.run(running.stop())


@pytest.fixture
def hostile(tmp_path):
    running = start(tmp_path, kind=True, nonce_reject_percent=REFUSED_PERCENT)
    yield running
    asyncio.run(running.stop())


async def obtain_many(ca, count, *, at_once):
    """Order from one account; return what was issued."""
    tokens = Tokens()
    issued = []
    async with (
        OneByOne(
            ca.directory_url, account_key=keys.generate(KeyType.ECDSA_P256), ca_file=ca.ca_file
        ) as client,
        responding(tokens, port=ca.http_port),
    ):
        await client.register(terms_agreed=True)

        async def one(number):
            orderer = Orderer(client, [f"n{number}.example.com"], tokens)
            issued.append(await orderer.obtain(MemoryJournal()))

        await some_at_once(one, count, at_once=at_once)
    assert {} == tokens
    return issued


@pytest.mark.timeout(600)
async def test_of_three_hundred_orders_none_is_lost_where_every_second_nonce_is_refused(hostile):
    issued = await obtain_many(hostile, 300, at_once=16)

    assert {(f"n{number}.example.com",) for number in range(300)} == {chain.names for chain in issued}
    assert 300 == hostile.orders() == hostile.issued()
    assert hostile.requests("POST") > 300 * REQUESTS * 1.5, "it did refuse"


async def test_many_orders_share_connections_and_nonces_through_the_proxy_of_the_environment(
    kind, monkeypatch
):
    """What a connection costs is a handshake: as much as three requests."""
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with tunnel() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://us:er%40@"))
        heads = kind.requests("HEAD")
        await obtain_many(kind, 32, at_once=4)

        assert kind.requests("HEAD") - heads <= 5, "nonces: as many as are at once, not as there are orders"
        assert len(proxy.heads) <= 4
        assert all("Proxy-Authorization: Basic dXM6ZXJA" in head for head in proxy.heads)


async def test_an_order_is_seven_requests_and_a_look_in_vain_now_and_then(kind):
    """Nobody looks right after the answer, when it is hardly ever decided, nor at an order that is ready."""
    before = kind.requests("POST")
    await obtain_many(kind, 32, at_once=8)

    assert REQUESTS * 32 <= kind.requests("POST") - before - 1 < (REQUESTS + 2) * 32
