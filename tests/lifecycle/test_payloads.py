"""What is no certificate, from stored until every Target has taken it."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from sds_server.clock import SystemClock
from sds_server.errors import Conflict, GateRefused, NotFound
from sds_server.inventory import (
    declarations,
    facts,
    freezes,
    payload_roll_outs,
    payloads,
    retirement,
    targets,
    ticket_schedules,
)
from sds_server.lifecycle.rollout import Action
from sds_server.lifecycle.shelf import open_payload
from sds_server.model import Identity, Phase, SecretName
from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.tickets import TicketKeys
from sds_server.payloads.trust import TrustBundle, fingerprint_of
from sds_server.xds.catalog import ABSENT, PENDING
from tests.support.databases import turn_clock
from tests.support.issuances import secret as certificate_secret
from tests.support.payloads import EDGE, NAME, NEW, OLD, Plane, bundle, sent


@pytest.fixture
def plane(issuances):
    return Plane(issuances)


async def test_a_bundle_goes_out_as_a_validation_context_and_completes_when_all_have_taken_it(plane):
    await plane.says("edge-1")
    stored = await plane.put(OLD)
    resource = await plane.offered()
    await plane.says("edge-1")
    await plane.says("edge-2")
    await plane.settler.step()
    before = await plane.outcome()
    await plane.says("edge-1", accepted=1)
    await plane.says("edge-2", accepted=1)
    await plane.turned()

    assert (1, True, False) == (stored.generation, stored.created, stored.unchanged)
    assert "validation_context" == sent(resource).WhichOneof("type")
    assert OLD.pem == sent(resource).validation_context.trusted_ca.inline_bytes
    assert [None] == before
    assert ["completed"] == await plane.outcome()
    evidence = (await payloads.history(plane.database, NAME))[0].evidence
    assert {"targets": 2, "proved": {}, "accepted": 2} == evidence


async def test_the_same_bundle_again_changes_nothing(plane):
    await plane.put(OLD)
    again = await plane.put(OLD)

    assert (1, True) == (again.generation, again.unchanged)


async def test_a_bundle_that_no_gate_passes_leaves_nothing_behind(plane, sql):
    with pytest.raises(GateRefused):
        await plane.service.put(NAME, TrustBundle(cas=()), actor="person:test")

    assert 0 == await sql.fetchval("SELECT count(*) FROM secret")


async def test_a_name_has_one_kind_for_ever_also_once_it_was_deleted(plane, issuances):
    await plane.put(OLD)
    generic = GenericSecret(value=b"x")
    for remove in (False, True):
        if remove:
            await declarations.remove(plane.database, NAME, actor="person:test")
        with pytest.raises(Conflict, match="it is a validation_context for ever"):
            await plane.service.put(NAME, generic, actor="person:test")
        with pytest.raises(Conflict, match="it is a validation_context for ever"):
            await declarations.put(plane.database, certificate_secret(NAME), actor="person:test")


@pytest.mark.parametrize(
    "statement",
    [
        """INSERT INTO payload (secret, generation, kind, phase, key_id, created_by)
           SELECT 'clients', 9, 'generic_secret', 'put', id, 'x' FROM key_material LIMIT 1""",
        "INSERT INTO certrotation (secret, reason) VALUES ('clients', 'operator')",
        "UPDATE secret SET kind = 'generic_secret' WHERE name = 'clients'",
        "UPDATE payload SET content = content || ' ' WHERE secret = 'clients'",
        "UPDATE payload SET secret = 'token' WHERE secret = 'clients'",
        "DELETE FROM payload",
    ],
)
async def test_the_database_refuses_another_kind_and_another_content(plane, sql, statement):
    await plane.put(OLD)
    await plane.service.put(SecretName("token"), GenericSecret(value=b"x"), actor="person:test")

    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await sql.execute(statement)


async def test_an_empty_bundle_put_past_every_check_is_not_sent_and_the_one_before_is_current(plane, sql):
    await plane.put(OLD)
    await plane.settler.step()
    first = await plane.offered()
    await sql.execute(
        "INSERT INTO payload (secret, generation, kind, phase, content, created_by)"
        " VALUES ('clients', 2, 'validation_context', 'put', $1, 'nobody')",
        TrustBundle(cas=()).text,
    )
    during = await plane.offered()
    after = await plane.offered()

    assert first == during == after
    assert ["rejected", "completed_unobserved"] == await plane.outcome()


async def test_who_refuses_gets_the_last_good_bundle_and_several_refusals_take_it_back(plane):
    await plane.put(OLD)
    for node in ("edge-1", "edge-2"):
        await plane.says(node, accepted=1)
    await plane.turned()
    await plane.put(NEW)
    await plane.offered()
    left = plane.catalog.before(NAME)
    await plane.says("edge-1", refused=2)
    await plane.turned()
    one = await plane.outcome()
    await plane.says("edge-2", refused=2)
    await plane.turned()

    assert 1 == left.generation
    assert [None, "completed"] == one
    assert ["rejected", "completed"] == await plane.outcome()
    assert 1 == (await plane.offered()).generation
    error = (await payloads.history(plane.database, NAME))[0].error
    assert "edge-1: it does not like it" in error["what"]


async def test_an_unknown_live_set_completes_nothing_and_an_empty_one_unobserved(plane, issuances):
    unknowing = Plane(issuances, known=False)
    await plane.put(OLD)
    await unknowing.settler.step()
    before = await plane.outcome()
    await plane.turned()

    assert ([None], ["completed_unobserved"]) == (before, await plane.outcome())


async def test_a_newer_version_supersedes_the_one_that_goes_out(plane):
    await plane.says("edge-1")
    await plane.put(OLD)
    await plane.put(OLD, NEW)

    assert [None, "superseded"] == await plane.outcome()


async def test_a_frozen_bundle_takes_no_new_version(plane):
    await plane.put(OLD)
    await freezes.freeze(plane.database, NAME, reason="a launch", actor="person:test")

    with pytest.raises(Conflict, match="frozen"):
        await plane.put(NEW)


async def test_a_deleted_bundle_is_absent_and_its_roll_out_over(plane):
    await plane.put(OLD)
    await declarations.remove(plane.database, NAME, actor="person:test")

    assert ABSENT is await plane.offered()
    assert ["superseded"] == await plane.outcome()


async def test_a_word_of_what_is_no_certificate_is_nothing_to_be_alarmed_at_and_a_refusal_is(plane):
    await plane.put(OLD)
    await plane.says("edge-1", accepted=1)
    await plane.says("edge-2", refused=1)
    found = await facts.read(plane.database)

    assert {("clients", "refused"): 1} == found.unproved
    assert {"accepted": 1, "refused": 1} == found.deliveries
    assert ({"valid": 0, "expired": 0, "none": 0}, []) == (found.secrets, list(found.dates))


# ---------------------------------------------------------------- what Envoys state


async def test_where_an_envoy_states_its_cas_that_is_the_proof_and_the_old_ones_are_none(plane, admin):
    address, contexts = admin
    await plane.put(OLD)
    await plane.turned()
    await plane.put(OLD, NEW)
    await targets.register(
        plane.database,
        "edge-1",
        probe=None,
        admin=address,
        identity=Identity(f"{EDGE}-edge-1"),
        node_id="edge-1",
        serves=[NAME],
        actor="person:test",
    )
    contexts[:] = [[OLD]]
    await plane.says("edge-1", accepted=2)
    await plane.turned()
    during = await plane.outcome()
    (item,) = await targets.live_set(plane.database, NAME)
    contexts[:] = [[OLD, NEW]]
    await plane.turned()

    assert None is during[0]
    assert "generation 1 is loaded still" in item.probe_error
    assert "completed" == (await plane.outcome())[0]
    evidence = (await payloads.history(plane.database, NAME))[0].evidence
    assert {"targets": 1, "proved": {"certs": 1}, "accepted": 0} == evidence


async def test_a_word_that_came_after_the_look_waits_for_the_next_one(plane, admin):
    """Between look and decision an Envoy says yes: what it has loaded was not seen yet."""
    address, contexts = admin
    contexts[:] = [[NEW]]
    await plane.put(OLD)
    await targets.register(
        plane.database,
        "edge-1",
        probe=None,
        admin=address,
        identity=Identity(f"{EDGE}-edge-1"),
        node_id="edge-1",
        serves=[NAME],
        actor="person:test",
    )
    await plane.says("edge-1", accepted=1)
    decision = await payload_roll_outs.settle(
        plane.database,
        NAME,
        1,
        proved=(),
        contradicted={},
        looked_at=(),
        known=True,
        grace=timedelta(0),
        actor="replica:test",
    )
    open_still = await plane.outcome()
    await plane.turned()

    assert (Action.WAIT, [None]) == (decision.action, open_still)
    assert ["completed"] == await plane.outcome()


# ---------------------------------------------------------------- a root's rotation


async def test_a_root_is_rotated_in_three_phases_each_with_every_proxy(plane, issuances, sql):
    await plane.put(OLD)
    await plane.says("edge-1", accepted=1)
    await plane.turned()
    fingerprint = fingerprint_of(OLD.certificate)
    await plane.service.add_cas(NAME, NEW.pem.decode(), actor="person:test")
    with pytest.raises(Conflict, match="not with every proxy yet: edge-1"):
        await plane.service.remove_ca(NAME, fingerprint, actor="person:test")
    await plane.says("edge-1", accepted=2)
    await plane.turned()
    union = sent(await plane.offered()).validation_context.trusted_ca.inline_bytes
    await plane.service.remove_ca(NAME, fingerprint, actor="person:test")
    await plane.says("edge-1", accepted=3)
    await plane.turned()

    assert NEW.pem + OLD.pem == union
    assert NEW.pem == sent(await plane.offered()).validation_context.trusted_ca.inline_bytes
    assert ["completed"] * 3 == await plane.outcome()
    assert ["remove", "add", "put"] == [v.phase for v in await payloads.history(plane.database, NAME)]


async def test_a_ca_stays_while_a_live_target_is_served_what_no_other_ca_vouches_for(plane, issuances, sql):
    issuer = issuances.ca
    await plane.put(issuer, NEW)
    await plane.turned()
    declared = await issuances.declare()
    await issuances.issue(declared)
    await targets.register(
        plane.database, "edge-1", probe=None, identity=None, node_id=None, serves=["www"], actor="p"
    )
    fingerprint = fingerprint_of(issuer.certificate)

    with pytest.raises(Conflict, match="certificates of it are served: generation 1 of www"):
        await plane.service.remove_ca(NAME, fingerprint, actor="person:test")

    # The other one vouches for nothing: it goes at once.
    await plane.service.remove_ca(NAME, fingerprint_of(NEW.certificate), actor="person:test")
    await plane.turned()
    await plane.put(issuer, NEW)
    await plane.turned()
    await plane.service.remove_ca(NAME, fingerprint, actor="person:test", forced="the key is lost")
    told = await sql.fetchval(
        "SELECT payload FROM certaudit WHERE action = 'payload.stored' ORDER BY id DESC LIMIT 1"
    )
    assert "the key is lost" == json.loads(told)["forced"]
    assert ["certificates of it are served: generation 1 of www"] == json.loads(told)["in_the_way"]


async def test_the_last_ca_and_one_that_is_not_there_cannot_be_removed(plane):
    await plane.put(OLD)
    await plane.turned()

    with pytest.raises(GateRefused, match="no CA in the bundle"):
        await plane.service.remove_ca(NAME, fingerprint_of(OLD.certificate), actor="p", forced="I insist")
    with pytest.raises(NotFound, match="it trusts no CA"):
        await plane.service.remove_ca(NAME, "00" * 32, actor="person:test")
    with pytest.raises(NotFound):
        await plane.service.add_cas(SecretName("nobody"), OLD.pem.decode(), actor="person:test")


# ---------------------------------------------------------------- what is sealed


async def test_generic_secrets_are_sealed_and_sent_and_their_old_keys_destroyed(plane, sql):
    name = SecretName("token")
    await plane.service.put(name, GenericSecret(value=b"first-value"), actor="person:test")
    await plane.turned(name)
    await plane.service.put(name, GenericSecret(parts={"id": b"second-value"}), actor="person:test")
    await plane.turned(name)
    resource = await plane.offered(name)
    stored = await sql.fetch("SELECT envelope FROM key_material")
    young = await retirement.destroy_payloads(plane.database, limit=10, actor="replica:test")
    await turn_clock(sql, retirement.KEPT_FOR + timedelta(hours=1))
    old = await retirement.destroy_payloads(plane.database, limit=10, actor="replica:test")

    assert b"second-value" == sent(resource).generic_secret.secrets["id"].inline_bytes
    assert not any(b"value" in row["envelope"] for row in stored)
    assert (0, 1) == (young, old)
    assert 1 == await sql.fetchval("SELECT count(*) FROM key_material WHERE destroyed_at IS NULL")
    assert [2] == [
        payload.generation for payload in await payloads.load(plane.database, [(name, 1), (name, 2)])
    ]


async def test_an_envelope_that_was_moved_to_another_secret_does_not_open(plane, sql):
    for name in ("a", "b"):
        await plane.service.put(SecretName(name), GenericSecret(value=name.encode()), actor="person:test")
    keys = {row["secret"]: row["key_id"] for row in await sql.fetch("SELECT secret, key_id FROM payload")}
    await sql.execute("ALTER TABLE payload DISABLE TRIGGER payload_changed")
    await sql.execute("UPDATE payload SET key_id = $1 WHERE secret = 'b'", keys["a"])

    assert b"a" == sent(await plane.offered(SecretName("a"))).generic_secret.secret.inline_bytes
    assert None is await plane.offered(SecretName("b"))


async def test_ticket_keys_are_made_when_due_by_one_replica_and_the_old_ones_kept(plane, issuances, sql):
    name, other = SecretName("tickets"), Plane(issuances)
    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    pending = await plane.offered(name)
    for _ in range(2):
        await plane.service.make_tickets()
        await other.service.make_tickets()
    first = sent(await plane.offered(name)).session_ticket_keys.keys
    await turn_clock(sql, timedelta(hours=13))
    await plane.service.make_tickets()
    second = sent(await plane.offered(name)).session_ticket_keys.keys
    await ticket_schedules.hasten(plane.database, name, actor="person:test")
    await other.service.make_tickets()
    third = sent(await plane.offered(name)).session_ticket_keys.keys

    assert PENDING is pending
    assert [80] == [len(key.inline_bytes) for key in first]
    assert [second[1]] == list(first)
    assert [third[1]] == [second[0]]
    assert (2, 2) == (len(second), len(third))
    assert third == sent(await other.offered(name)).session_ticket_keys.keys


async def test_a_replica_that_died_over_a_key_leaves_it_to_another_after_its_lease(plane, sql):
    name = SecretName("tickets")
    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    assert (name, 2) == await ticket_schedules.claim(plane.database)

    await plane.service.make_tickets()
    assert [] == await payloads.history(plane.database, name)
    await turn_clock(sql, ticket_schedules.LEASE + timedelta(seconds=1))
    await plane.service.make_tickets()
    assert 1 == len(await payloads.history(plane.database, name))


async def test_a_key_that_is_wanted_while_another_is_made_is_made_as_well(plane):
    name = SecretName("tickets")
    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    await ticket_schedules.claim(plane.database)
    new = await plane.service._new(name, TicketKeys((b"a" * 80,)), Phase.ROTATE)
    await ticket_schedules.hasten(plane.database, name, actor="person:test")
    await ticket_schedules.rotated(plane.database, new, actor="replica:test")

    assert (name, 2) == await ticket_schedules.claim(plane.database)


async def test_keys_that_were_changed_meanwhile_are_not_overwritten(plane):
    name = SecretName("tickets")
    await plane.service.put(name, TicketKeys((b"a" * 80,)), actor="person:test")
    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    new = await plane.service._new(name, TicketKeys((b"b" * 80,)), Phase.ROTATE, after=1)
    await plane.service.put(name, TicketKeys((b"c" * 80,)), actor="person:test")

    with pytest.raises(Conflict, match="changed meanwhile"):
        await ticket_schedules.rotated(plane.database, new, actor="replica:test")
    served = await payloads.served(plane.database, name)
    assert TicketKeys((b"c" * 80,)) == await open_payload(served, plane.sealer)


@pytest.mark.parametrize("keys", [0, 1])
async def test_a_secret_that_is_removed_while_its_key_is_made_stays_removed(plane, sql, monkeypatch, keys):
    name, seal = SecretName("tickets"), plane.sealer.seal

    async def meanwhile(*arguments, **named):
        await declarations.remove(plane.database, name, actor="person:test")
        return await seal(*arguments, **named)

    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    for _ in range(keys):
        await plane.service.make_tickets()
        await ticket_schedules.hasten(plane.database, name, actor="person:test")
    monkeypatch.setattr(plane.sealer, "seal", meanwhile)
    await plane.service.make_tickets()

    assert keys == await sql.fetchval("SELECT count(*) FROM payload")
    assert ABSENT == await plane.offered(name)


async def test_a_secret_that_is_removed_before_its_key_is_made_is_passed_over(plane, monkeypatch):
    name, claim = SecretName("tickets"), ticket_schedules.claim

    async def meanwhile(database):
        claimed = await claim(database)
        if claimed is not None:
            await declarations.remove(plane.database, name, actor="person:test")
        return claimed

    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    monkeypatch.setattr(ticket_schedules, "claim", meanwhile)
    await plane.service.make_tickets()

    assert [] == await payloads.history(plane.database, name)


async def test_what_is_made_of_a_bundle_that_was_removed_meanwhile_does_not_bring_it_back(plane):
    await plane.put(OLD)
    new = await plane.service._new(NAME, bundle(OLD, NEW), Phase.ADD, after=1)
    await declarations.remove(plane.database, NAME, actor="person:test")

    with pytest.raises(Conflict, match="removed meanwhile"):
        await payloads.store(plane.database, new, actor="person:test")
    assert ABSENT == await plane.offered()


async def test_only_ticket_keys_on_a_schedule_are_hastened(plane):
    await plane.put(OLD)

    with pytest.raises(Conflict, match="validation_context"):
        await ticket_schedules.hasten(plane.database, NAME, actor="person:test")
    with pytest.raises(NotFound):
        await ticket_schedules.hasten(plane.database, "nobody", actor="person:test")


async def test_what_is_frozen_is_not_hastened(plane):
    """It would be made in the moment that it is resumed, which nobody expects of a command of long ago."""
    name = SecretName("tickets")
    await plane.service.schedule(name, rotate_every=timedelta(hours=12), keep=2, actor="person:test")
    await freezes.freeze(plane.database, name, reason="a launch", actor="person:test")

    with pytest.raises(Conflict, match="frozen"):
        await ticket_schedules.hasten(plane.database, name, actor="person:test")


async def test_a_roll_out_that_ended_meanwhile_is_left_alone(plane):
    await plane.put(OLD)
    decision = await payload_roll_outs.settle(
        plane.database,
        NAME,
        7,
        proved=(),
        contradicted={},
        looked_at=(),
        known=True,
        grace=timedelta(0),
        actor="replica:test",
    )

    assert payload_roll_outs.OVER == decision
    assert [None] == await plane.outcome()


async def test_a_declared_secret_of_another_kind_is_pending_until_it_holds_something(plane):
    await plane.service.schedule(NAME, rotate_every=timedelta(hours=1), keep=1, actor="person:test")

    assert PENDING is await plane.offered()


async def test_dates_of_what_was_served_do_not_keep_it_from_a_proxy_that_starts(plane, issuances, sql):
    await plane.put(OLD)
    await plane.turned()
    later = Plane(issuances)
    later.publisher._shelf._clock = _At(OLD.certificate.not_valid_after_utc + timedelta(days=1))
    early = Plane(issuances)
    early.publisher._shelf._clock = later.publisher._shelf._clock
    served = await later.offered()
    await plane.says("edge-1")
    await plane.put(OLD, NEW)

    assert 1 == served.generation
    assert PENDING is await early.offered()
    assert None is (await payloads.history(plane.database, NAME))[0].outcome


class _At(SystemClock):
    def __init__(self, now: datetime) -> None:
        self._now = now.astimezone(UTC)

    def now(self) -> datetime:
        return self._now
