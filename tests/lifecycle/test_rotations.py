"""A rotation from its opening to its completion, on a real PostgreSQL."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from sds_server.errors import CallerError, IllegalTransition, NotFound, StaleLease
from sds_server.inventory import (
    certificates,
    declarations,
    deliveries,
    progress,
    refusals,
    roll_outs,
    rotations,
    targets,
)
from sds_server.inventory.deliveries import News
from sds_server.lifecycle.states import TRANSITIONS, Event, after, allows
from sds_server.model import CertificateStatus, Identity, Outcome, Reason
from tests.support.databases import turn_clock, waits
from tests.support.issuances import LEASE, secret
from tests.support.roll_outs import confirm

PEER = Identity("spiffe://example.test/edge-1")


def news(secret, **marks):
    fields = dict.fromkeys(("sent", "accepted", "refused", "refusal", "refused_version"))
    fields |= {"seen_for": timedelta(minutes=10)} | marks
    return News(identity=PEER, node_id="edge-1", secret=secret, **fields)


async def statuses(sql, secret="www"):
    rows = await sql.fetch("SELECT generation, status FROM certificate WHERE secret = $1 ORDER BY 1", secret)
    return [(row["generation"], row["status"]) for row in rows]


async def actions(sql, subject="www"):
    return [
        row["action"]
        for row in await sql.fetch("SELECT action FROM certaudit WHERE subject = $1 ORDER BY id", subject)
    ]


@pytest.mark.parametrize("status", CertificateStatus)
@pytest.mark.parametrize("event", Event)
def test_an_event_is_in_the_table_or_an_error(status, event):
    if allows(status, event):
        assert TRANSITIONS[status, event] == after(status, event)
    else:
        with pytest.raises(IllegalTransition, match=f"that is {status} cannot be {event}"):
            after(status, event)


def test_final_states_have_no_way_out_but_a_rejected_certificate_can_be_revoked():
    final = {CertificateStatus.REJECTED, CertificateStatus.EXPIRED, CertificateStatus.REVOKED}

    assert {(CertificateStatus.REJECTED, Event.REVOKED)} == {way for way in TRANSITIONS if way[0] in final}


async def test_a_declared_secret_gets_its_first_rotation_once(issuances, sql):
    await issuances.declare()
    again = await declarations.put(issuances.database, secret(), actor="person:test")

    assert not again
    assert [("initial", None)] == [
        tuple(r) for r in await sql.fetch("SELECT reason, outcome FROM certrotation")
    ]


async def test_changed_names_open_a_rotation_of_what_is_served(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    changed = await declarations.put(
        issuances.database, secret(domains=("www.example.test", "api.example.test")), actor="person:test"
    )

    assert changed
    assert "changed" == await sql.fetchval("SELECT reason FROM certrotation WHERE completed_at IS NULL")
    assert [(1, "expiring_soon")] == await statuses(sql)


async def test_one_worker_gets_the_rotation(issuances):
    await issuances.declare()
    await issuances.claim("a")

    assert await rotations.claim(issuances.database, replica="b", lease_for=LEASE) is None


async def test_an_expired_lease_passes_on_and_its_holder_can_write_nothing(issuances, sql):
    declared = await issuances.declare()
    slow = await issuances.claim("slow")
    await turn_clock(sql, LEASE + timedelta(seconds=1))
    quick = await issuances.claim("quick")

    assert quick.lease.number > slow.lease.number
    with pytest.raises(StaleLease):
        await issuances.store(slow, declared)
    with pytest.raises(StaleLease):
        await rotations.extend(issuances.database, slow.lease, lease_for=LEASE)
    with pytest.raises(StaleLease):
        await rotations.fail(
            issuances.database,
            slow.lease,
            error={},
            pause=timedelta(0),
            abandon_order=True,
            actor="replica:slow",
        )
    await issuances.store(quick, declared)
    assert [(1, "issued")] == await statuses(sql)


async def test_a_lease_that_ran_out_unclaimed_is_over_as_well(issuances, sql):
    declared = await issuances.declare()
    claim = await issuances.claim()
    await turn_clock(sql, LEASE + timedelta(seconds=1))

    with pytest.raises(StaleLease):
        await issuances.store(claim, declared)


async def test_a_failed_attempt_waits_and_keeps_its_reason(issuances, sql):
    await issuances.declare()
    claim = await issuances.claim()
    await rotations.fail(
        issuances.database,
        claim.lease,
        error={"what": "the CA said no"},
        pause=timedelta(minutes=1),
        abandon_order=True,
        actor="replica:a",
    )

    assert await rotations.claim(issuances.database, replica="a", lease_for=LEASE) is None
    assert (await progress.latest(issuances.database, "www")).last_error == {"what": "the CA said no"}
    await turn_clock(sql, timedelta(minutes=2))
    assert 2 == (await issuances.claim()).attempts


async def test_an_operator_hastens_a_waiting_rotation_instead_of_opening_a_second(issuances, sql):
    await issuances.declare()
    claim = await issuances.claim()
    await rotations.fail(
        issuances.database,
        claim.lease,
        error={},
        pause=timedelta(days=1),
        abandon_order=True,
        actor="replica:a",
    )
    rotation = await rotations.open_for(
        issuances.database, "www", reason=Reason.OPERATOR, actor="person:test"
    )

    assert rotation == claim.lease.rotation
    await issuances.claim()


async def test_renewal_is_due_by_the_databases_clock(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)

    assert 0 == await rotations.open_due(issuances.database, limit=10, actor="replica:a")
    await turn_clock(sql, timedelta(days=61))
    assert 1 == await rotations.open_due(issuances.database, limit=10, actor="replica:a")
    assert 0 == await rotations.open_due(issuances.database, limit=10, actor="replica:a")
    assert [(1, "expiring_soon")] == await statuses(sql)


async def test_a_rotation_is_complete_when_every_target_is_proved(issuances, sql):
    declared = await issuances.declare()
    one = await targets.register(
        issuances.database, "one", probe="127.0.0.1:1", identity=None, node_id=None, serves=["www"], actor="p"
    )
    two = await targets.register(
        issuances.database, "two", probe="127.0.0.1:2", identity=None, node_id=None, serves=["www"], actor="p"
    )
    await issuances.issue(declared)
    roll_out = await roll_outs.get(issuances.database, "www")

    assert await confirm(issuances.database, roll_out, proved=[one], actor="replica:a") is None
    assert [(1, "active")] == await statuses(sql)
    assert Outcome.COMPLETED == await confirm(issuances.database, roll_out, proved=[two], actor="replica:a")
    assert 2 == (await actions(sql)).count("delivery.proved")


async def test_the_old_certificate_is_replaced_in_the_transaction_that_completes(issuances, sql):
    declared = await issuances.declare()
    target = await targets.register(
        issuances.database, "one", probe="127.0.0.1:1", identity=None, node_id=None, serves=["www"], actor="p"
    )
    for _ in range(2):
        await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
        await issuances.issue(declared)
        roll_out = await roll_outs.get(issuances.database, "www")
        before = await statuses(sql)
        await confirm(issuances.database, roll_out, proved=[target], actor="replica:a")

    assert [(1, "rotating"), (2, "issued")] == before
    assert [(1, "replaced"), (2, "active")] == await statuses(sql)


async def test_an_empty_live_set_completes_only_where_it_may_be_believed(issuances):
    declared = await issuances.declare()
    await issuances.issue(declared)
    roll_out = await roll_outs.get(issuances.database, "www")

    assert await confirm(issuances.database, roll_out, proved=[], actor="replica:a") is None
    assert Outcome.COMPLETED_UNOBSERVED == await confirm(
        issuances.database, roll_out, proved=[], actor="replica:a", unobserved=True
    )


async def test_a_target_that_was_seen_counts_until_it_is_unseen_for_long(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    await deliveries.write(issuances.database, [news("www", sent=1, accepted=1)], actor="replica:a")
    roll_out = await roll_outs.get(issuances.database, "www")

    assert await confirm(issuances.database, roll_out, proved=[], actor="r", unobserved=True) is None
    await turn_clock(sql, timedelta(minutes=11))
    assert Outcome.COMPLETED_UNOBSERVED == await confirm(
        issuances.database, roll_out, proved=[], actor="r", unobserved=True
    )


async def test_a_rejected_certificate_gives_way_to_the_one_before(issuances, sql):
    declared = await issuances.declare()
    first = await issuances.issue(declared)
    await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
    second = await issuances.issue(declared)
    rejected = await roll_outs.reject(
        issuances.database, "www", second.id, error={"what": "refused"}, actor="replica:a"
    )

    assert rejected
    assert [(1, "expiring_soon"), (2, "rejected")] == await statuses(sql)
    assert first.id == (await certificates.served(issuances.database, ["www"]))["www"].cert_id
    assert not await roll_outs.reject(issuances.database, "www", second.id, error={}, actor="replica:a")
    await turn_clock(sql, timedelta(hours=1))
    await issuances.issue(declared)
    assert [(1, "rotating"), (2, "rejected"), (3, "issued")] == await statuses(sql)


async def test_a_roll_out_that_is_overtaken_is_superseded(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    for _ in range(2):
        await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
        await issuances.issue(declared)

    assert [(1, "replaced"), (2, "rotating"), (3, "issued")] == await statuses(sql)
    outcomes = [row["outcome"] for row in await sql.fetch("SELECT outcome FROM certrotation ORDER BY id")]
    assert ["superseded", "superseded", None] == outcomes


async def test_names_that_changed_during_the_order_are_not_stored(issuances):
    declared = await issuances.declare()
    claim = await issuances.claim()
    await declarations.put(issuances.database, secret(domains=("other.example.test",)), actor="person:test")

    with pytest.raises(StaleLease, match="names changed"):
        await issuances.store(claim, declared)


async def test_what_lapsed_is_expired_and_said_so(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    await turn_clock(sql, timedelta(days=91))

    assert 1 == await certificates.lapse(issuances.database, limit=10, actor="replica:a")
    assert [(1, "expired")] == await statuses(sql)


async def test_the_first_acceptance_and_refusal_of_a_generation_are_audited(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    for _ in range(2):
        await deliveries.write(
            issuances.database,
            [news("www", refused=1, refusal="KEY_VALUES_MISMATCH", refused_version="v1")],
            actor="replica:a",
        )
    live = await targets.live_set(issuances.database, "www")

    assert 1 == (await actions(sql)).count("delivery.refused")
    assert ["KEY_VALUES_MISMATCH"] == [item.refusal for item in live]
    assert [(PEER, "edge-1", "www", "v1")] == list(await refusals.newest(issuances.database))


async def test_a_peer_that_names_secrets_that_do_not_exist_makes_no_rows(issuances, sql):
    await deliveries.write(issuances.database, [news("nobody-has-it")], actor="replica:a")

    assert 0 == await sql.fetchval("SELECT count(*) FROM delivery")


async def test_an_unsubscribed_target_counts_no_more(issuances):
    await issuances.declare()
    await deliveries.write(issuances.database, [news("www", sent=1)], actor="replica:a")
    await deliveries.write(issuances.database, [news("www", seen_for=None)], actor="replica:a")

    assert [] == list(await targets.live_set(issuances.database, "www"))


async def test_a_registered_target_is_bound_to_the_peer_with_its_name(issuances):
    await issuances.declare()
    await targets.register(
        issuances.database, "edge-1", probe="127.0.0.1:1", identity=None, node_id=None, serves=[], actor="p"
    )
    await deliveries.write(issuances.database, [news("www", accepted=1)], actor="replica:a")
    (live,) = await targets.live_set(issuances.database, "www")

    assert (PEER, "127.0.0.1:1", True) == (live.target.identity, live.target.probe, live.target.registered)


async def test_another_identity_with_a_taken_node_id_is_another_target(issuances):
    await issuances.declare()
    other = Identity("spiffe://example.test/impostor")
    fields = dict.fromkeys(("sent", "accepted", "refused", "refusal", "refused_version"))
    await deliveries.write(
        issuances.database,
        [
            news("www"),
            News(identity=other, node_id="edge-1", secret="www", seen_for=timedelta(minutes=1), **fields),
        ],
        actor="replica:a",
    )

    live = await targets.live_set(issuances.database, "www")
    assert {PEER, other} == {item.target.identity for item in live}


async def test_a_kind_is_for_ever(issuances, sql):
    await issuances.declare()

    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="for ever"):
        await sql.execute("UPDATE secret SET kind = 'validation_context'")


@pytest.mark.parametrize(
    "statement", ["UPDATE certaudit SET actor = 'x'", "DELETE FROM certaudit", "TRUNCATE certaudit"]
)
async def test_the_audit_is_append_only(issuances, sql, statement):
    await issuances.declare()

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await sql.execute(statement)


async def test_a_certificate_cannot_name_a_key_with_another_public_half(issuances, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await sql.execute("UPDATE certificate SET spki_sha256 = sha256('other')")


async def test_what_does_not_exist_is_said_by_name(database):
    with pytest.raises(NotFound, match="secret nobody"):
        await rotations.open_for(database, "nobody", reason=Reason.OPERATOR, actor="p")
    with pytest.raises(NotFound, match="target nobody"):
        await targets.remove(database, "nobody", actor="p")


async def test_two_targets_cannot_be_the_same_peer(database):
    await targets.register(database, "a", probe="h:1", identity=PEER, node_id="n", serves=[], actor="p")

    with pytest.raises(CallerError, match="another target has the identity"):
        await targets.register(database, "b", probe="h:1", identity=PEER, node_id="n", serves=[], actor="p")


async def test_of_two_who_bring_a_removed_secret_back_one_finds_it_there(issuances, sql):
    database, seen = issuances.database, []
    await issuances.declare()
    await declarations.remove(database, "www", actor="person:test")
    async with asyncio.timeout(30):
        async with database.transaction() as tx:
            await tx.value("kind_of", "www")  # as whoever declares it does first
            second = asyncio.create_task(
                declarations.put(database, secret(), actor="person:two", check=seen.append)
            )
            await waits(sql, second)
            await declarations.put_in(tx, secret(), actor="person:one")
            await rotations.open_in(tx, "www", reason=Reason.CHANGED, actor="person:one")
        await second

    assert [secret()] == seen
