"""The scheduler: what time brings, nearest expiry first, and nothing twice."""

from datetime import timedelta

import pytest

from acme_engine import renewal
from sds_server.clock import SystemClock
from sds_server.inventory import certificates, roll_outs, rotations, targets
from sds_server.inventory.tokens import RotationTokens, Tokens
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.model import Reason
from tests.support.databases import turn_clock
from tests.support.issuances import LEASE
from tests.support.roll_outs import confirm


@pytest.fixture
def tokens(database):
    return Tokens(database)


@pytest.fixture
def scheduler(database, tokens):
    return Scheduler(database=database, tokens=tokens, clock=SystemClock(), actor="replica:test")


async def statuses(sql):
    rows = await sql.fetch("SELECT secret, generation, status FROM certificate ORDER BY secret, generation")
    return [tuple(row) for row in rows]


async def open_rotations(sql):
    rows = await sql.fetch("SELECT secret, reason, new_cert_id FROM certrotation WHERE completed_at IS NULL")
    return [tuple(row) for row in rows]


async def complete(issuances, secret="www"):
    """Nobody serves it: the rotation ends unobserved."""
    roll_out = await roll_outs.get(issuances.database, secret)
    await confirm(issuances.database, roll_out, proved=[], actor="r", unobserved=True)


async def test_a_renewal_is_opened_when_it_is_due_and_not_before(issuances, scheduler, sql):
    await issuances.issue(await issuances.declare())
    await complete(issuances)
    await scheduler.step()
    early = await open_rotations(sql)
    await turn_clock(sql, timedelta(days=60, minutes=10))
    await scheduler.step()
    await scheduler.step()

    assert [] == early
    assert [("www", "renewal", None)] == await open_rotations(sql)
    assert [("www", 1, "expiring_soon")] == await statuses(sql)


async def test_it_expires_soon_from_thirty_days_before_its_end_and_its_order_is_spread(
    issuances, scheduler, sql
):
    """The state changes at the policy's moment; a share of each certificate's own puts off the work alone."""
    certificate = await issuances.issue(await issuances.declare())
    await complete(issuances)
    due = certificate.not_after - timedelta(days=30)
    share = renewal.spread(
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        jitter=renewal.jitter(certificate.id),
    )
    await sql.execute("UPDATE certificate SET renew_at = $1", due)
    await turn_clock(sql, due - await sql.fetchval("SELECT now()") - timedelta(minutes=1))
    await scheduler.step()
    before = await statuses(sql)
    await turn_clock(sql, due - await sql.fetchval("SELECT now()"))
    await scheduler.step()
    then, starts_at = await statuses(sql), await sql.fetchval("SELECT max(starts_at) FROM certrotation")
    claimed = await rotations.claim(issuances.database, replica="a", lease_for=LEASE)
    await turn_clock(sql, due + share - await sql.fetchval("SELECT now()"))

    assert timedelta(days=90) == certificate.not_after - certificate.not_before
    assert ([("www", 1, "active")], [("www", 1, "expiring_soon")]) == (before, then)
    assert (due + share, None) == (starts_at, claimed)
    assert "www" == (await issuances.claim()).lease.secret


async def test_what_a_person_or_the_ca_wants_is_not_spread(issuances, scheduler, sql):
    """A CA has drawn its moments apart by itself."""
    await issuances.issue(await issuances.declare())
    await complete(issuances)
    await sql.execute("UPDATE certificate SET renew_at = now()")
    await scheduler.step()

    assert "www" == (await issuances.claim()).lease.secret


async def test_the_nearest_expiry_is_worked_on_first(issuances, scheduler, sql):
    for name, days in (("late", 90), ("soon", 60), ("later", 100)):
        declared = await issuances.declare(name, [f"{name}.example.test"])
        await issuances.store(await issuances.claim(), declared, days=days)
        await complete(issuances, name)
    await sql.execute("UPDATE certificate SET renew_at = now()")
    await scheduler.step()

    assert ["soon", "late", "later"] == [(await issuances.claim()).lease.secret for _ in range(3)]


async def test_a_renewal_comes_before_a_first_issuance(issuances, scheduler, sql):
    await issuances.issue(await issuances.declare())
    await issuances.declare("new", ["new.example.test"])
    await turn_clock(sql, timedelta(days=61))
    await scheduler.step()

    assert "www" == (await issuances.claim()).lease.secret


async def test_what_has_lapsed_is_expired_with_its_renewal_open(issuances, scheduler, sql):
    """After a long outage both are due at once."""
    await issuances.issue(await issuances.declare())
    await complete(issuances)
    await turn_clock(sql, timedelta(days=91))
    await scheduler.step()

    assert [("www", 1, "expired")] == await statuses(sql)
    assert [("www", "renewal", None)] == await open_rotations(sql)


async def test_a_certificate_lapses_only_once_its_renewal_is_open(issuances, scheduler, sql):
    """Somebody holds its Secret while renewals are opened: once expired, nothing would open it."""
    await issuances.issue(await issuances.declare())
    await complete(issuances)
    await turn_clock(sql, timedelta(days=91))
    async with sql.transaction():
        await sql.fetch("SELECT FROM secret WHERE name = 'www' FOR UPDATE")
        assert 0 == await rotations.open_due(issuances.database, limit=10, actor="r")
    assert 0 == await certificates.lapse(issuances.database, limit=10, actor="r")
    await scheduler.step()
    assert [("www", "renewal", None)] == await open_rotations(sql)


async def test_one_that_lapsed_in_its_roll_out_is_replaced_all_the_same(issuances, scheduler, sql):
    """A Target that nobody reaches keeps the Rotation open, and not the Secret without a successor."""
    declared = await issuances.declare()
    await targets.register(
        issuances.database,
        "dark",
        probe="127.0.0.1:1",
        identity=None,
        node_id=None,
        serves=["www"],
        actor="p",
    )
    await issuances.issue(declared)
    await turn_clock(sql, timedelta(days=91))
    await certificates.lapse(issuances.database, limit=10, actor="r")
    await scheduler.step()
    outcomes = [row["outcome"] for row in await sql.fetch("SELECT outcome FROM certrotation ORDER BY id")]

    assert ["superseded", None] == outcomes
    assert [("www", "renewal", None)] == await open_rotations(sql)
    assert Reason.RENEWAL == (await issuances.claim()).reason


async def test_more_than_a_batch_is_done_in_one_step(issuances, scheduler, sql, monkeypatch):
    monkeypatch.setattr("sds_server.lifecycle.scheduler.BATCH", 2)
    for number in range(5):
        declared = await issuances.declare(f"s{number}", [f"s{number}.example.test"])
        await issuances.issue(declared)
    await turn_clock(sql, timedelta(days=91))
    await scheduler.step()

    assert 5 == len(await open_rotations(sql))
    assert {"expired"} == {status for _, _, status in await statuses(sql)}


@pytest.mark.parametrize("days", [1, -1], ids=["forward", "back"])
async def test_a_clock_that_jumps_by_a_day_opens_nothing_twice_and_loses_nothing(
    issuances, scheduler, sql, days
):
    """And comes right again: whoever died in between has the same Rotation taken over."""
    await issuances.issue(await issuances.declare())
    await complete(issuances)
    late = timedelta(days=62)
    await turn_clock(sql, late)
    await scheduler.step()
    died = await issuances.claim()
    await turn_clock(sql, late + timedelta(days=days))
    await scheduler.step()
    meanwhile = await open_rotations(sql)
    await turn_clock(sql, late + LEASE + timedelta(seconds=1))
    await scheduler.step()

    assert [("www", "renewal", None)] == meanwhile == await open_rotations(sql)
    assert died.lease.rotation == (await issuances.claim()).lease.rotation


async def test_tokens_that_a_crash_left_are_swept_when_they_end(issuances, scheduler, tokens, database, sql):
    await issuances.declare()
    mine = RotationTokens(database, (await issuances.claim()).lease.rotation)
    await mine.put("short", "answer", ttl_s=60)
    await mine.put("long", "answer", ttl_s=3600)
    await turn_clock(sql, timedelta(seconds=61))
    ended = await tokens.get("short")
    await scheduler.step()

    assert ended is None
    assert ["long"] == [row["token"] for row in await sql.fetch("SELECT token FROM challenge_token")]
