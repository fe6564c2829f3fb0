"""The census: what metrics say of the inventory is what the inventory says, and lasts while it is away."""

import time
from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from sds_server.conditions import delivery_state
from sds_server.errors import Unavailable
from sds_server.inventory import budgets, declarations, facts, freezes, rotations, targets
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.budget import Account
from sds_server.lifecycle.census import COUNTS_LAST, Census
from sds_server.limits import Counted, Limit, Preset
from sds_server.metrics import Metrics
from sds_server.model import Reason
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.exposition import samples
from tests.support.fakes import CuttableDatabase
from tests.support.roll_outs import rolling_out

HOUR = timedelta(hours=1)
NOT_AFTER = "certvoy_certificate_not_after_timestamp_seconds"


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def cuttable(database):
    return CuttableDatabase(database)


@pytest.fixture
def census(cuttable, clock):
    return Census(database=cuttable, clock=clock)


@pytest.fixture
def said(census):
    metrics = Metrics(version="1")
    census.tell(metrics)
    return lambda: samples(metrics.exposition())


async def test_before_anything_was_read_only_the_database_is_told_of(said):
    found = said()

    assert 0 == found["certvoy_database_up",]
    assert not [key for key in found if key[0].startswith(("certvoy_secrets", "certvoy_inventory"))]


async def test_the_dates_are_those_of_what_is_served(issuances, census, said, clock):
    certificate = await issuances.issue(await issuances.declare())
    await issuances.declare("later", ["later.example.test"])
    await census.step()
    found = said()

    assert certificate.not_after.timestamp() == found[NOT_AFTER, "www"]
    assert certificate.renew_at.timestamp() == found["certvoy_certificate_renewal_timestamp_seconds", "www"]
    assert (NOT_AFTER, "later") not in found
    assert (1, 0, 1) == tuple(found["certvoy_secrets", state] for state in ("valid", "expired", "none"))
    assert (1, clock.now().timestamp()) == (
        found["certvoy_database_up",],
        found["certvoy_inventory_read_timestamp_seconds",],
    )


async def test_what_is_late_or_over_is_counted(issuances, census, said, sql):
    await issuances.issue(await issuances.declare())
    await turn_clock(sql, timedelta(days=61))
    await census.step()
    late = said()
    await turn_clock(sql, timedelta(days=91))
    await census.step()
    over = said()

    assert (1, 0) == (late["certvoy_renewals_overdue",], late["certvoy_secrets", "expired"])
    assert (1, 1) == (over["certvoy_renewals_overdue",], over["certvoy_secrets", "expired"])


async def test_a_name_that_could_not_be_validated_is_told_with_its_issuer_for_an_hour(
    issuances, census, said, sql
):
    await issuances.declare()
    claim = await issuances.claim()
    await rotations.fail(
        issuances.database,
        claim.lease,
        error={"what": "no"},
        pause=timedelta(hours=1),
        guilty=[("www.example.test", "dns")],
        issuer="internal",
        actor="replica:test",
    )
    await census.step()
    now = said()
    await turn_clock(sql, timedelta(minutes=61))
    await census.step()
    later = said()

    key = ("certvoy_identifier_failures", "www.example.test", "internal")
    assert (1, False) == (now[key], key in later)


async def test_open_rotations_are_told_by_how_far_they_are(issuances, census, said, sql):
    for name in ("a", "b", "c"):
        await issuances.declare(name, [f"{name}.example.test"])
    claim = await issuances.claim()
    await rotations.fail(
        issuances.database,
        claim.lease,
        error={"what": "no"},
        pause=timedelta(hours=1),
        abandon_order=False,
        actor="replica:test",
    )
    await issuances.claim()
    oldest = await sql.fetchval("SELECT min(triggered_at) FROM certrotation")
    await census.step()
    found = said()

    assert {"waiting": 2, "issuing": 1, "rolling_out": 0} == {
        state: found["certvoy_rotations_open", state] for state in ("waiting", "issuing", "rolling_out")
    }
    assert 1 == found["certvoy_rotations_failing",]
    assert ("certvoy_rotation_oldest_open_timestamp_seconds", "rolling_out") not in found
    assert pytest.approx(oldest.timestamp(), abs=1e-3) == min(
        value for key, value in found.items() if key[0] == "certvoy_rotation_oldest_open_timestamp_seconds"
    )


async def test_what_is_left_of_a_ca_s_limits_is_told_and_what_waits_for_them(
    issuances, cuttable, clock, database, sql
):
    """Of what is counted for each domain that of which least is left."""
    limits = {
        Counted.ORDERS: Limit(10, timedelta(hours=10)),
        Counted.DOMAIN: Limit(4, timedelta(hours=8)),
        Counted.NAMES: Limit(5, timedelta(days=7)),
    }
    issuer = Issuer("internal", "https://ca.example.test/dir", None, (), (), terms_agreed=True, eab=None)
    metrics = Metrics(version="1")
    census = Census(
        database=cuttable, clock=clock, issuers={"internal": replace(issuer, limits=Preset(limits))}
    )
    census.tell(metrics)
    of = {"directory_url": issuer.directory_url, "limits": limits}
    for domain in ("a.test", "b.test", "b.test"):
        taken = [Account(Counted.ORDERS, ""), Account(Counted.DOMAIN, domain)]
        await budgets.take(database, taken, **of)
    await budgets.close(database, [Account(Counted.NAMES, "a.test")], lasts=timedelta(hours=1), **of)
    for name, rule in (("a", "budget.domain"), ("b", "budget.domain"), ("c", "csr")):
        await issuances.declare(name, [f"{name}.test"])
        error = {"what": "no", "rule": rule}
        claim = await issuances.claim()
        await rotations.fail(
            database, claim.lease, error=error, pause=timedelta(hours=1), counted=False, actor="replica:test"
        )
    await census.step()
    found = samples(metrics.exposition())

    assert {"orders": 0.7, "domain": 0.5, "names": 0.0} == {
        key[2]: round(value, 2) for key, value in found.items() if key[0] == "certvoy_limit_free_ratio"
    }
    assert {("certvoy_orders_deferred", "internal", "budget.domain"): 2} == {
        key: value for key, value in found.items() if key[0] == "certvoy_orders_deferred"
    }


async def test_deliveries_are_judged_as_everywhere_else(issuances, database, sql):
    """Every combination of marks: the statement says what `conditions.delivery_state` says."""
    declared = await issuances.declare()
    await issuances.issue(declared)
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issuances.issue(declared)  # the second generation
    expected: dict[str, int] = {}
    generations = (None, 1, 2)
    marks = list(product(*[generations] * 4, (None, HOUR), (None, "no answer")))
    for number, (sent, accepted, refused, proved, stale_for, error) in enumerate(marks):
        target = await sql.fetchval(
            "INSERT INTO target (name, registered) VALUES ($1, true) RETURNING id", f"t{number}"
        )
        await sql.execute(
            "INSERT INTO delivery"
            " (target_id, secret, registered, sent, accepted, refused, proved, stale_since, probe_error)"
            " VALUES ($1, 'www', true, $2, $3, $4, $5, certvoy_now() - $6::interval, $7)",
            target,
            sent,
            accepted,
            refused,
            proved,
            stale_for,
            error,
        )
        state, _ = delivery_state(
            current=2,
            sent=sent,
            accepted=accepted,
            refused=refused,
            proved=proved,
            refusal=None,
            probe_error=error,
            stale_for=stale_for,
            unseen=error is not None,
        )
        expected[state] = expected.get(state, 0) + 1
    found = await facts.read(database)

    assert 7 == len(expected)
    assert expected == found.deliveries
    assert {("www", state): n for state, n in expected.items() if state != "proved"} == found.unproved


async def test_who_waits_for_the_canaries_is_counted_and_alarms_nobody(issuances, database):
    await rolling_out(issuances, "edge-1", "edge-2", "edge-3")
    found = await facts.read(database)

    assert {"stale": 1, "waiting": 2} == found.deliveries
    assert {("www", "stale"): 1} == found.unproved


async def test_who_waits_for_the_canaries_and_cannot_be_seen_meanwhile_alarms(issuances, database, sql):
    """A roll-out may stand at its canaries for days."""
    await rolling_out(issuances, "edge-1", "edge-2", "edge-3")
    await sql.execute(
        "UPDATE delivery SET probe_error = 'no answer' WHERE target_id ="
        " (SELECT max(target_id) FROM delivery WHERE target_id NOT IN (SELECT target_id FROM canary))"
    )
    found = await facts.read(database)

    assert {"stale": 1, "waiting": 1, "unseen": 1} == found.deliveries
    assert {("www", "stale"): 1, ("www", "unseen"): 1} == found.unproved


async def test_since_when_a_target_is_stale_is_told_of_the_one_that_is_so_for_longest(
    issuances, database, census, said, sql
):
    await rolling_out(issuances, "edge-1", "edge-2", "edge-3")
    for name, minutes in (("edge-1", 5), ("edge-2", 9)):
        await sql.execute(
            "UPDATE delivery d SET stale_since = now() - make_interval(mins => $2)"
            " FROM target t WHERE t.id = d.target_id AND t.name = $1",
            name,
            minutes,
        )
    await census.step()
    (since,) = [value for key, value in said().items() if key[0] == "certvoy_secret_stale_timestamp_seconds"]

    assert 9 * 60 <= time.time() - since < 10 * 60


async def test_a_target_that_refuses_is_named_if_an_operator_has_named_it(
    issuances, database, census, said, sql
):
    """A proxy that was only seen is called as its client likes, and a label is no place for that."""
    await rolling_out(issuances, "edge-1", "edge-2", "edge-3")
    await sql.execute("UPDATE certrotation SET stage = 'fleet' WHERE completed_at IS NULL")
    await sql.execute(
        "UPDATE delivery d SET accepted = NULL, proved = NULL, seen_until = now() + interval '1 hour',"
        "   registered = t.name <> 'edge-2', refused = CASE WHEN t.name <> 'edge-3' THEN 2 END"
        " FROM target t WHERE t.id = d.target_id"
    )
    await census.step()
    found = said()

    assert 2 == found["certvoy_secret_unproved_targets", "www", "refused"]
    assert {("www", "edge-1"): 1} == {
        key[1:]: value for key, value in found.items() if key[0] == "certvoy_target_refuses"
    }


async def test_frozen_secrets_are_told_with_who_holds_them(issuances, database, census, said):
    for name, actor in (("a", "person:alice"), ("b", "replica:one"), ("c", None)):
        await issuances.declare(name, [f"{name}.example.test"])
        if actor is not None:
            await freezes.freeze(database, name, reason="why", actor=actor)
    await census.step()
    found = {key[1:] for key in said() if key[0] == "certvoy_secret_frozen_timestamp_seconds"}

    assert {("person", "a"), ("certvoy", "b")} == {tuple(sorted(key, key=len, reverse=True)) for key in found}


async def test_without_the_database_dates_stay_and_counts_end(issuances, census, cuttable, said, clock):
    await issuances.issue(await issuances.declare())
    await census.step()
    cuttable.cut()
    with pytest.raises(Unavailable):
        await census.step()
    soon = said()
    clock.turn(COUNTS_LAST + timedelta(seconds=1))
    late = said()

    assert (0, 1) == (soon["certvoy_database_up",], soon["certvoy_secrets", "valid"])
    assert ("certvoy_secrets", "valid") not in late
    assert soon[NOT_AFTER, "www"] == late[NOT_AFTER, "www"]


async def test_where_there_are_too_many_secrets_those_that_end_first_are_told(
    issuances, census, said, monkeypatch
):
    monkeypatch.setattr(facts, "DATES_MAX", 1)
    for name, days in (("late", 90), ("soon", 10)):
        declared = await issuances.declare(name, [f"{name}.example.test"])
        await issuances.store(await issuances.claim(), declared, days=days)
    await census.step()
    found = said()

    assert 1 == found["certvoy_secrets_unlisted",]
    assert ["soon"] == [key[1] for key in found if key[0] == NOT_AFTER]


async def test_a_deleted_secret_is_told_of_no_more(issuances, census, said, sql):
    await issuances.issue(await issuances.declare())
    await sql.execute("UPDATE secret SET deleted_at = certvoy_now()")
    await census.step()

    assert not [key for key in said() if key[0] == NOT_AFTER]
    assert 0 == said()["certvoy_rotations_open", "rolling_out"]


async def test_deliveries_are_counted_by_one_replica_for_all(issuances, census, said, clock, sql):
    database = issuances.database
    await issuances.issue(await issuances.declare())
    other = Census(database=database, clock=clock)
    await other.step()
    await targets.register(
        database, "edge", probe=None, identity=None, node_id=None, serves=["www"], actor="person:test"
    )
    await census.step()
    soon = said()
    await turn_clock(sql, facts.COUNTED_EVERY + timedelta(seconds=1))
    await census.step()

    assert 0 == soon["certvoy_deliveries", "never"]
    assert 1 == said()["certvoy_deliveries", "never"]


async def test_who_dies_counting_holds_up_the_others_for_a_minute(issuances, census, said, database, sql):
    async with database.transaction() as tx:
        assert await tx.value("begin_census", facts.ABANDONED)
    await census.step()
    meanwhile = said()
    await turn_clock(sql, facts.ABANDONED + timedelta(seconds=1))
    await census.step()

    assert not [key for key in meanwhile if key[0] == "certvoy_deliveries"]
    assert 0 == said()["certvoy_deliveries", "never"]


async def test_secrets_are_counted_as_they_come_and_go(issuances, census, said, sql, monkeypatch):
    """By their changes, added up when there are many."""
    monkeypatch.setattr(facts, "CHANGES_MAX", 2)
    for name in ("a", "b", "c"):
        await issuances.declare(name, [f"{name}.example.test"])
    await declarations.remove(issuances.database, "a", actor="person:test")
    await census.step()
    left = said()["certvoy_secrets", "none"], await sql.fetchval("SELECT count(*) FROM secret_count")
    await issuances.declare("a", ["a.example.test"])
    await census.step()

    assert (2, 1) == left
    assert (3, 0) == (said()["certvoy_secrets", "none"], said()["certvoy_secrets", "valid"])
