"""A CA that is away or says "too much": nobody asks it in vain, and what is due goes on in its order."""

import asyncio
import time

import pytest

from sds_server.assembly import WORKERS
from sds_server.lifecycle.patience import AWAY_PAUSE
from tests.support import pebble as pebbles
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.issuances import Issuances
from tests.support.outage import HEALED_WITHIN_S, LONG, SLOW_MACHINE_S, state, tell

DUE = 500 if LONG else 30
REPLICAS = 2
TOGETHER = WORKERS * REPLICAS
"""Orders under way at once."""

pytestmark = [pytest.mark.debian, pytest.mark.timeout(900 if LONG else 240)]


@pytest.fixture
def pebble(tmp_path_factory):
    running = pebbles.start(tmp_path_factory.mktemp("pebble"), kind=True)
    yield running
    asyncio.run(running.stop())


@pytest.fixture
async def planes(pebble, front, connect, database, tmp_path):
    """Two replicas of one deployment; not started."""
    made = []
    for n in range(REPLICAS):
        directory = tmp_path / f"replica-{n}"
        directory.mkdir()
        plane = ControlPlane(
            directory, database=dsn(connect), http01_port=pebble.http_port if n == 0 else None
        )
        plane.issuer(front.directory_url, front.ca_file, terms_agreed=True)
        plane.settings |= {
            "secrets": {},
            "replica": f"r{n}",
            "kms": {"key_file": str(tmp_path / "kek")},
        }
        plane.settings["rotation"]["lease"] = "30s"
        made.append(plane)
    yield made
    await asyncio.gather(*(plane.stop() for plane in made if plane.child is not None))


@pytest.fixture
async def due(database, sql, tmp_path):
    """Served Secrets whose renewals are all due; the one that ends first is declared last."""
    issuances = await Issuances.open(database, tmp_path)
    for n in range(DUE):
        await issuances.issue(await issuances.declare(f"s{n:03}", [f"s{n:03}.example.test"]))
    await sql.execute(
        "UPDATE certrotation SET completed_at = certvoy_now(), outcome = 'completed_unobserved'"
    )
    await sql.execute(
        "UPDATE certificate SET status = 'active', renew_at = certvoy_now() - interval '1 hour',"
        " not_after = certvoy_now() + interval '30 days' - right(secret, 3)::int * interval '1 hour'"
    )
    return [f"s{n:03}.example.test" for n in reversed(range(DUE))]


def renewed(sql):
    async def all_of_them():
        return await sql.fetchval("SELECT count(*) FROM certificate WHERE generation = 2") == DUE

    return all_of_them


def paused(sql, planes):
    async def everywhere():
        known = await sql.fetchval("SELECT count(*) FROM issuer_pause") == 1
        return known and all([await state(plane) == "degraded" for plane in planes])

    return everywhere


def disorder(front, due, tried):
    """By how many places the worst order came too early or late; without those that were ``tried`` in vain.

    Who was told that the CA is away comes back in its own time: behind the others, where these are quick.
    """
    came = [visit.names[0] for visit in front.orders if visit.names[0] not in tried]
    return max(abs(came.index(name) - place) for place, name in enumerate(n for n in due if n not in tried))


async def test_what_is_due_waits_for_a_ca_that_is_away_and_then_goes_on_in_its_order(planes, front, due, sql):
    await front.shut()
    await asyncio.gather(*(plane.start() for plane in planes))
    await until(paused(sql, planes))
    # For two looks, and more: neither storms nor failures come of it.
    await asyncio.sleep(60 if LONG else 2.5 * AWAY_PAUSE.total_seconds())
    attempts = await sql.fetchval("SELECT max(attempts) FROM certrotation WHERE completed_at IS NULL")
    failed = await sql.fetch("SELECT subject FROM certaudit WHERE action = 'rotation.failed'")
    tried = {f"{row['subject']}.example.test" for row in failed}
    await front.open()
    began = time.monotonic()

    async def ordered():
        return front.orders

    await until(ordered)
    resumed_s = front.orders[0].at - began
    await until(renewed(sql), timeout_s=600)
    drained_s = time.monotonic() - began
    states = {await state(plane) for plane in planes}

    tell(
        f"CA away with {DUE} renewals due, {REPLICAS} replicas",
        resumed=f"{resumed_s:.1f} s",
        drained=f"{drained_s:.1f} s",
        disorder=disorder(front, due, tried),
        most_in_flight=front.most_in_flight,
        busiest_second=front.busiest_second(),
        failures=len(failed),
    )
    assert resumed_s < HEALED_WITHIN_S + SLOW_MACHINE_S
    assert 0 == attempts
    assert len(failed) <= TOGETHER
    assert DUE == len(front.orders)
    # Four at once for one registered domain: who finds no place comes back behind some that were due later.
    assert disorder(front, due, tried) <= 3 * TOGETHER
    assert front.most_in_flight <= TOGETHER + REPLICAS
    assert {"ok"} == states


async def test_nobody_asks_before_retry_after_on_any_replica(planes, front, due, sql):
    wanted_s = 60 if LONG else 8
    await asyncio.gather(*(plane.start() for plane in planes))

    async def under_way():
        return len(front.orders) >= DUE // 6

    await until(under_way)
    asked = len(front.visits)
    front.limit(wanted_s)

    async def told():
        return len(front.visits) > asked

    await until(told)
    began = front.visits[asked].at
    await until(paused(sql, planes))
    await until(renewed(sql), timeout_s=600)
    during = [visit for visit in front.visits if began < visit.at < began + wanted_s]
    last_s = max([visit.at - began for visit in during], default=0.0)
    after_s = min(visit.at - began for visit in front.visits if visit.at >= began + wanted_s)

    tell(
        f"429 with Retry-After: {wanted_s}, {REPLICAS} replicas",
        asked_meanwhile=len(during),
        the_last_after=f"{last_s:.2f} s",
        asked_again_after=f"{after_s:.2f} s",
        most_in_flight=front.most_in_flight,
    )
    # Orders that were under way are each told once; a replica reads a directory for them, and one for ARI.
    directories = sum(visit.method == "GET" for visit in during)
    assert len(during) - directories <= TOGETHER
    assert directories <= 2 * REPLICAS
    assert last_s < min(SLOW_MACHINE_S, wanted_s / 2)
    assert after_s < wanted_s + HEALED_WITHIN_S + SLOW_MACHINE_S
    assert front.most_in_flight <= TOGETHER + REPLICAS
    assert DUE == await sql.fetchval("SELECT count(*) FROM certificate WHERE generation = 2")
