"""The database behind a network that swallows everything: nothing waits for long, all is well by itself."""

import asyncio
import os
import signal

import pytest

from sds_server.clock import SystemClock
from sds_server.errors import Unavailable
from sds_server.inventory import feed as feeds
from sds_server.inventory.database import BEGIN_TIMEOUT_S, COMMAND_TIMEOUT_S, open_database
from sds_server.inventory.feed import Feed
from sds_server.inventory.schema import migrate
from tests.support.fault_proxy import Fault
from tests.support.postgres_network import behind


@pytest.fixture
async def network(connect):
    async with behind(connect) as it:
        yield it


@pytest.fixture
async def remote(network):
    """A database behind the proxy, with every connection of its pool open and idle."""
    opened = await open_database(network.connect, size=4)
    await migrate(opened)
    await asyncio.gather(*(read(opened, hold_s=0.2) for _ in range(4)))
    yield opened
    network.proxy.heal()
    await opened.close()


async def read(database, *, hold_s=0.0):
    async with database.transaction() as tx:
        found = await tx.row("deployment")
        await asyncio.sleep(hold_s)
    return found


async def seconds(task):
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(240):
        with pytest.raises(Unavailable):
            await task
    return loop.time() - began


async def test_a_transaction_that_begins_in_a_black_hole_ends_soon(network, remote):
    network.proxy.become(Fault.BLACK_HOLE)
    waited = await seconds(read(remote))

    assert waited < BEGIN_TIMEOUT_S + 2


async def test_a_transaction_that_a_black_hole_swallows_ends_soon(network, remote):
    """No ROLLBACK is waited for: asyncpg would, for ever."""
    async with asyncio.timeout(240):
        with pytest.raises(Unavailable):
            async with remote.transaction() as tx:
                network.proxy.become(Fault.BLACK_HOLE)
                began = asyncio.get_running_loop().time()
                await tx.row("deployment")
        waited = asyncio.get_running_loop().time() - began

    assert waited < COMMAND_TIMEOUT_S + 2


async def test_one_silent_connection_is_enough_to_distrust_all(network, remote):
    """As when a firewall forgot all of them and says nothing: only the first of the pool costs a wait."""
    pids = [connection.get_server_pid() for connection in remote._made]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waited = await seconds(read(remote))
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            await read(remote)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    assert 4 == len(pids)
    assert asyncio.get_running_loop().time() - began < BEGIN_TIMEOUT_S
    assert waited < BEGIN_TIMEOUT_S + 2


async def test_a_feed_that_hears_nothing_is_lost(network, monkeypatch):
    monkeypatch.setattr(feeds, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(feeds, "HEARD_WITHIN_S", 0.5)
    database = await open_database(network.connect, size=1)
    beats = []
    feed = Feed(
        database, clock=SystemClock(), on_secret=beats.append, on_work=lambda: None, on_gap=lambda: None
    )
    feed.on_beat = lambda: beats.append("beat")
    step = asyncio.create_task(feed.step())
    while len(beats) < 3:
        await asyncio.sleep(0.01)
    network.proxy.become(Fault.BLACK_HOLE)
    waited = await seconds(step)
    network.proxy.heal()
    await database.close()

    assert waited < 5


async def test_a_feed_that_is_answered_and_told_nothing_is_lost(database, monkeypatch):
    """Behind a pooler that lends connections by the transaction, LISTEN works and is worth nothing."""
    monkeypatch.setattr(feeds, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(feeds, "HEARD_WITHIN_S", 0.5)

    class Pooled:
        async def listen(self):
            return Deaf(await database.listen())

    class Deaf:
        def __init__(self, connection):
            self.execute, self.terminate = connection.execute, connection.terminate
            self.get_server_pid = connection.get_server_pid

        async def add_listener(self, _channel, _callback):
            pass

    feed = Feed(
        Pooled(),
        clock=SystemClock(),
        on_secret=lambda _name: None,
        on_work=lambda: None,
        on_gap=lambda: None,
    )

    assert await seconds(asyncio.create_task(feed.step())) < 5
