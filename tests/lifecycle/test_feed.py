"""The feed: a hint that may be lost, and says so when it was."""

import asyncio
from datetime import timedelta

import pytest

from sds_server.clock import SystemClock
from sds_server.errors import Unavailable
from sds_server.inventory import rotations
from sds_server.inventory.feed import Feed
from sds_server.lifecycle.loop import Loop
from sds_server.model import Reason


class Heard:
    def __init__(self, database):
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.feed = Feed(
            database,
            clock=SystemClock(),
            on_secret=lambda name: self.news.put_nowait(f"secret {name}"),
            on_work=lambda: self.news.put_nowait("work"),
            on_gap=lambda: self.news.put_nowait("gap"),
        )

    async def next(self) -> str:
        async with asyncio.timeout(30):
            return await self.news.get()


@pytest.fixture
async def heard(database):
    heard = Heard(database)
    listening = asyncio.create_task(heard.feed.step())
    assert "gap" == await heard.next()
    yield heard
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_what_is_committed_is_told(heard, issuances):
    """Told at commit, in any order: a new secret, and the work that it makes."""
    await issuances.declare()

    assert {"secret www", "work"} == {await heard.next(), await heard.next()}


async def test_what_is_rolled_back_is_not_told(heard, issuances, database):
    await issuances.declare()
    await heard.next(), await heard.next()
    with pytest.raises(RuntimeError):
        async with database.transaction() as tx:
            await rotations.open_in(tx, "www", reason=Reason.OPERATOR, actor="person:test")
            raise RuntimeError
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")

    assert "work" == await heard.next()
    assert heard.news.empty()


async def test_a_lost_connection_ends_the_step_so_that_the_next_listens_anew(database, sql):
    class Impatient(SystemClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0)

    heard = Heard(database)
    heard.feed._clock = Impatient()
    listening = asyncio.create_task(heard.feed.step())
    await heard.next()
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    with pytest.raises(Unavailable, match="the feed was lost"):
        async with asyncio.timeout(30):
            await listening

    again = asyncio.create_task(heard.feed.step())
    assert "gap" == await heard.next()
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_a_loop_whose_feed_listens_again_is_well_again(database):
    """The step does not end while it listens: it says itself that all is well."""
    heard = Heard(database)
    loop = Loop("feed", heard.feed.step, every=timedelta(seconds=1))
    heard.feed.on_beat = loop.succeeded
    loop.failures = 3
    running = asyncio.create_task(loop.run())
    await heard.next()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert 0 == loop.failures
