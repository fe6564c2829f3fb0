"""What waits for DNS holds no worker, and what can be issued at once is."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from acme_engine.dns01 import Mode, Propagation
from acme_engine.messages import Challenge, Identifier
from sds_server.assembly import WORKERS
from sds_server.errors import Unavailable
from sds_server.inventory import declarations
from sds_server.lifecycle import worker as workers
from sds_server.lifecycle.challenges import Challenges, Dns
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.waiting_room import WaitingRoom
from sds_server.lifecycle.worker import Worker
from tests.lifecycle.test_worker import ISSUER, Directory, FakeAccounts, FakeCa
from tests.support.clocks import TurnedClock
from tests.support.dns_memory import MemoryDns
from tests.support.issuances import LEASE, secret

SLOW = Propagation(mode=Mode.WAIT, wait_s=600.0, follow_aliases=False)
CHALLENGE = Challenge(
    type="dns-01", url="https://ca.example.test/challenge", status="pending", token="t" * 43, error=None
)
UNTIL = 60.0
"""Generous: a machine may be busy."""


class ProvingCa(FakeCa):
    """A CA for which names are proved before it issues."""

    async def obtain(self, client, *, names, solver, **rest):
        for name in names:
            of = solver.of(name)[0]
            subject = Identifier.of(name), replace(CHALLENGE, type=of.challenge_type), "key.authorization"
            await of.present(*subject)
            await of.ready(*subject)
            await of.cleanup(*subject)
        return await super().obtain(client, names=names, **rest)


@pytest.fixture
def ca(issuances, monkeypatch):
    fake = ProvingCa(issuances.ca)
    monkeypatch.setattr(workers, "obtain", fake.obtain)
    return fake


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def worker(database, issuances, clock):
    slow = Dns(provider=MemoryDns(), zones=None, propagation=SLOW)
    challenges = Challenges(dns=slow, default="dns-01", choices={"www.quick.example": "http-01"})
    issuers = {"internal": replace(ISSUER, challenges=challenges, spacing=None)}
    return Worker(
        database=database,
        sealer=issuances.sealer,
        issuers=issuers,
        accounts=FakeAccounts(database=database, sealer=issuances.sealer, actor="replica:one"),
        patience=Patience(
            database=database, issuers=issuers, answers=Directory().answers, actor="replica:one"
        ),
        lease_for=LEASE,
        replica="one",
        clock=clock,
        rng=Random(1),
    )


async def declare(database, name, domain):
    await declarations.put(database, secret(name, [domain]), actor="person:test")


async def issued(sql):
    return {row["secret"] for row in await sql.fetch("SELECT secret FROM certificate")}


async def eventually(condition):
    async with asyncio.timeout(UNTIL):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_eight_secrets_in_a_slow_zone_keep_nobody_waiting(worker, ca, clock, database, sql):
    """As many as their issuer may have in flight, and twice as many as there are workers."""
    for number in range(8):
        await declare(database, f"slow-{number}", f"www.slow-{number}.example")
    await asyncio.gather(*(worker.step() for _ in range(WORKERS)))
    waiting = worker.apart
    await declare(database, "quick", "www.quick.example")
    await worker.step()
    while_they_wait = await issued(sql)
    clock.turn(timedelta(seconds=601))

    async def all_issued():
        return len(await issued(sql)) == 9 and not worker.apart

    await eventually(all_issued)

    assert (8, {"quick"}) == (waiting, while_they_wait)
    assert 0 == worker.busy
    assert 0 == await sql.fetchval("SELECT count(*) FROM certrotation WHERE waits_for_dns")


async def test_what_waits_is_stopped_with_the_process_and_takes_its_value_away(
    worker, ca, clock, database, sql
):
    await declare(database, "slow", "www.slow.example")
    await worker.step()
    before = worker.apart
    await worker.close()

    assert (1, 0) == (before, worker.apart)
    assert set() == await issued(sql)


async def test_a_full_room_has_the_next_one_keep_its_worker():
    room, gone = WaitingRoom(places=1), asyncio.Event()

    async def work(visit):
        visit.begin()
        await gone.wait()
        visit.end()

    await room.hold(work)
    held = asyncio.create_task(room.hold(work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    before = held.done(), room.apart
    gone.set()
    await held

    assert (False, 1) == before


async def test_what_is_raised_before_it_waits_is_the_workers_own():
    async def work(_visit):
        raise Unavailable("database: it does not answer")

    with pytest.raises(Unavailable):
        await WaitingRoom().hold(work)


async def test_a_worker_that_is_stopped_stops_what_it_holds():
    ended = []

    async def work(_visit):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    holding = asyncio.create_task(WaitingRoom().hold(work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)

    assert [True] == ended
