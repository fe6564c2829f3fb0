"""Who writes many Deliveries locks them as streams' news do, by their Targets: two wait for no deadlock."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from sds_server.inventory import (
    declarations,
    deliveries,
    instances,
    payload_roll_outs,
    payloads,
    pushes,
    roll_outs,
    rotations,
    secrets,
    targets,
)
from sds_server.inventory.deliveries import News
from sds_server.inventory.voices import Look
from sds_server.lifecycle.rollout import Action
from sds_server.model import Identity, Kind, Phase, ProvedBy, Reason, TargetId, TargetKind
from tests.support.databases import waits
from tests.support.payloads import NAME, NEW, OLD, Plane, bundle
from tests.support.roll_outs import rolling_out

FLEET = ("edge-1", "edge-2", "edge-3", "edge-4")
HOLD = "SELECT target_id FROM delivery WHERE secret = $1 AND target_id = $2 FOR UPDATE"
FREE = "SELECT target_id FROM delivery WHERE secret = $1 ORDER BY target_id FOR UPDATE SKIP LOCKED"


class Fleet:
    """The Deliveries of a Secret, and a batch of news that has come to the first of them."""

    def __init__(self, connect, sql, secret):
        self._connect, self._sql, self.secret = connect, sql, secret
        self.ids = []

    async def read(self):
        rows = await self._sql.fetch(
            "SELECT target_id FROM delivery WHERE secret = $1 ORDER BY target_id", self.secret
        )
        self.ids = [TargetId(row["target_id"]) for row in rows]
        # A statement that takes them as they lie in the table comes to the first one last.
        await self._sql.execute(
            "UPDATE delivery SET look_at = now() + interval '1 day' WHERE target_id = $1", self.ids[0]
        )
        return self

    async def held_by(self, work):
        """Hold the first until the work waits for that; return how many of the others it holds meanwhile."""
        batch = await asyncpg.connect(**self._connect)
        try:
            async with batch.transaction(), asyncio.timeout(30):
                await batch.fetch(HOLD, self.secret, self.ids[0])
                working = asyncio.create_task(work)
                assert await waits(self._sql, working), await working
                free = await batch.fetch(FREE, self.secret)
            self.result = await working
        finally:
            await batch.close()
        return len(self.ids) - len(free)


@pytest.fixture
async def certificates(issuances, connect, sql):
    """Four Targets that have taken generation 2, of which one has it as a canary."""
    await rolling_out(issuances, *FLEET)
    await sql.execute("UPDATE delivery SET sent = 2, accepted = 2, salt = 1")
    return await Fleet(connect, sql, "www").read()


@pytest.fixture
async def bundles(issuances, connect, sql):
    """Four Envoys that have taken the second bundle, of which some have it as canaries."""
    plane = Plane(issuances)
    await plane.put(OLD)
    for node in FLEET:
        await plane.says(node, accepted=1)
    await plane.turned()
    await plane.put(OLD, NEW)
    await sql.execute("UPDATE delivery SET sent = 2, accepted = 2, salt = 1")
    fleet = await Fleet(connect, sql, NAME).read()
    fleet.plane = plane
    return fleet


async def test_what_a_look_has_proved_and_what_not_is_locked_together(certificates, database):
    first, *_, last = certificates.ids
    looks = [Look(last, error="it serves the one before"), Look(first, by=ProvedBy.HANDSHAKE)]
    roll_out = await roll_outs.get(database, "www")

    assert 0 == await certificates.held_by(
        roll_outs.settle(database, roll_out, looks, known=True, actor="replica:a")
    )


async def test_what_canaries_refuse_is_taken_back_by_who_holds_no_delivery_yet(certificates, database, sql):
    first, *others = certificates.ids
    await sql.execute("DELETE FROM canary")
    await sql.execute(
        "INSERT INTO canary (rotation_id, target_id)"
        " SELECT id, unnest($1::bigint[]) FROM certrotation WHERE completed_at IS NULL",
        others,
    )
    await sql.execute(
        "UPDATE delivery SET accepted = NULL, refused = 2, refusal = 'no' WHERE target_id <> $1", first
    )
    roll_out = await roll_outs.get(database, "www")
    looks = [Look(others[-1], error="it serves the one before")]
    held = await certificates.held_by(
        roll_outs.settle(database, roll_out, looks, known=True, actor="replica:a")
    )

    assert 0 == held
    assert Action.ROLL_BACK is certificates.result.action
    assert ["expiring_soon", "rejected"] == await _statuses(sql)


async def test_an_operator_takes_a_roll_out_back_in_that_order(certificates, database):
    assert 0 == await certificates.held_by(roll_outs.roll_back(database, "www", actor="person:test"))


async def test_a_secret_is_removed_in_that_order(certificates, database):
    assert 0 == await certificates.held_by(declarations.remove(database, "www", actor="person:test"))


async def test_a_new_certificate_is_offered_plainly_in_that_order(certificates, database, issuances, sql):
    await roll_outs.roll_back(database, "www", actor="person:test")
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    claim = await issuances.claim()
    await sql.execute("UPDATE delivery SET salt = 1")

    assert 0 == await certificates.held_by(issuances.store(claim, await issuances.declare()))


async def test_what_envoys_state_of_a_bundle_is_locked_together(bundles, database):
    first, *_, last = bundles.ids
    settling = payload_roll_outs.settle(
        database,
        NAME,
        2,
        proved=[first],
        contradicted={last: "the one before is loaded"},
        looked_at=[first, last],
        known=True,
        grace=timedelta(0),
        actor="replica:a",
    )

    assert 0 == await bundles.held_by(settling)


async def test_a_bundle_is_taken_back_in_that_order(bundles, database):
    assert 0 == await bundles.held_by(payload_roll_outs.roll_back(database, NAME, actor="person:test"))


async def test_a_new_bundle_is_offered_in_that_order(bundles, database):
    new = payloads.New(NAME, Kind.VALIDATION_CONTEXT, Phase.PUT, content=bundle(OLD).text)

    assert 0 == await bundles.held_by(payloads.store(database, new, actor="person:test"))


async def test_a_push_that_tells_the_program_locks_the_target_before_its_delivery(
    certificates, database, connect, sql
):
    await targets.register(
        database,
        FLEET[0],
        probe=None,
        identity=Identity("spiffe://certvoy/proxy/edge-1"),
        node_id=None,
        serves=["www"],
        actor="person:test",
        push="127.0.0.1:1",
        reserved="spiffe://certvoy/",
    )
    await sql.execute("UPDATE target SET kind = 'files'")
    await sql.execute("UPDATE delivery SET proved = NULL")
    (pushed,) = await pushes.claim(database, lease_for=timedelta(minutes=1), limit=1)
    batch = await asyncpg.connect(**connect)
    async with batch.transaction(), asyncio.timeout(30):
        await batch.fetch("SELECT FROM target WHERE id = $1 FOR NO KEY UPDATE", pushed.target.id)
        writing = asyncio.create_task(pushes.answered(database, pushed, kind=TargetKind.NGINX, again=None))
        assert await waits(sql, writing), await writing
        free = [row["target_id"] for row in await batch.fetch(FREE, "www")]
    await writing
    await batch.close()

    assert pushed.target.id in free


async def test_a_target_is_removed_when_what_it_said_is_written(certificates, database, sql):
    peer = Identity("spiffe://example.test/edge-9"), "edge-9"
    async with database.transaction() as tx:
        await deliveries.target_of(tx, *peer, TargetKind.ENVOY)
    async with asyncio.timeout(30), database.transaction() as tx:
        target = await deliveries.target_of(tx, *peer, TargetKind.ENVOY)
        removing = asyncio.create_task(targets.remove(database, "edge-9", actor="person:test"))
        waited = await waits(sql, removing)
        await deliveries.mark(tx, [(target, said(*peer))], actor="replica:a")
    await removing

    assert waited
    assert certificates.ids == [
        row["target_id"] for row in await sql.fetch("SELECT target_id FROM delivery ORDER BY 1")
    ]


async def test_a_target_is_removed_when_whoever_chooses_canaries_is_done(certificates, database, sql):
    roll_out = await roll_outs.get(database, "www")
    async with asyncio.timeout(30), database.transaction() as tx:
        await secrets.lock(tx, "www")
        removing = asyncio.create_task(targets.remove(database, FLEET[0], actor="person:test"))
        waited = await waits(sql, removing)
        await tx.rows("add_canaries", roll_out.rotation, certificates.ids)
    await removing

    assert waited
    assert certificates.ids[1:] == [
        row["target_id"] for row in await sql.fetch("SELECT target_id FROM canary ORDER BY 1")
    ]


async def test_what_dead_replicas_said_is_buried_in_the_order_of_peers(database, connect, sql, issuances):
    """As streams' news lock their Targets, whichever of them was seen first."""
    await issuances.declare()
    peers = [(Identity(f"spiffe://example.test/{node}"), node) for node in ("z", "a")]
    for peer in peers:
        await deliveries.write(database, [said(*peer)], actor="replica:a")
    await sql.execute(
        "INSERT INTO target_instance (target_id, secret, replica, streams, seen_until)"
        " SELECT target_id, secret, 'dead', 1, now() FROM delivery"
    )
    batch = await asyncpg.connect(**connect)
    async with asyncio.timeout(30):
        async with batch.transaction():
            await batch.fetch("SELECT FROM target WHERE node_id = 'a' FOR UPDATE")
            burying = asyncio.create_task(bury(database))
            assert await waits(sql, burying), await burying
            free = await batch.fetch("SELECT node_id FROM target FOR UPDATE SKIP LOCKED")
        await burying
    await batch.close()

    assert {"a", "z"} == {row["node_id"] for row in free}


async def bury(database):
    async with database.transaction() as tx:
        await instances.bury(tx, limit=10, actor="replica:a")


def said(identity, node_id):
    """An Envoy has accepted generation 2 of www."""
    return News(
        identity=identity,
        node_id=node_id,
        secret="www",
        sent=2,
        accepted=2,
        refused=None,
        refusal=None,
        refused_version=None,
        seen_for=timedelta(minutes=10),
    )


async def _statuses(sql):
    return [row["status"] for row in await sql.fetch("SELECT status FROM certificate ORDER BY generation")]
