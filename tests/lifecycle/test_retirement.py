"""Keys of certificates that are over: kept while somebody may need them, then destroyed, and audited."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest

from acme_engine.keys import generate, pkcs8, spki_sha256
from sds_server.clock import SystemClock
from sds_server.inventory import (
    certificates,
    declarations,
    deliveries,
    orders,
    retirement,
    revocations,
    roll_outs,
    rotations,
)
from sds_server.inventory.deliveries import News
from sds_server.inventory.retirement import KEPT_FOR
from sds_server.inventory.tokens import Tokens
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.model import Identity, KeyId, KeyType, Reason, RevocationReason
from tests.support.databases import turn_clock
from tests.support.roll_outs import confirm

EDGE = Identity("spiffe://example.test/edge-1")


@pytest.fixture
def keys(issuances, sql):
    class Keys:
        async def rotated(self, *, target=False):
            """Two generations, the second one complete."""
            declared = await issuances.declare()
            await issuances.issue(declared)
            if target:
                await self.see()
            await self.complete()
            await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
            await issuances.issue(declared)
            await self.complete()

        async def see(self):
            news = News(EDGE, "edge-1", "www", 1, 1, None, None, None, timedelta(days=365))
            await deliveries.write(issuances.database, [news], actor="replica:test")

        async def complete(self):
            roll_out = await roll_outs.get(issuances.database, "www")
            proved = [item.target.id for item in roll_out.live]
            await confirm(issuances.database, roll_out, proved=proved, actor="r", unobserved=True)

        async def left(self, after=timedelta(0)):
            """The generations whose keys are there, so long from the beginning."""
            await turn_clock(sql, after)
            await retirement.destroy(issuances.database, limit=10, actor="replica:test")
            rows = await sql.fetch(
                "SELECT generation FROM certificate c JOIN key_material k ON k.id = c.key_id"
                " WHERE k.dek_wrapped IS NOT NULL AND k.envelope IS NOT NULL ORDER BY 1"
            )
            return [row["generation"] for row in rows]

    return Keys()


LATER = KEPT_FOR + timedelta(minutes=1)


async def test_a_replaced_key_is_kept_for_a_week_and_then_destroyed(keys, sql):
    await keys.rotated()

    assert [1, 2] == await keys.left(KEPT_FOR - timedelta(minutes=1))
    assert [2] == await keys.left(LATER)
    (entry,) = await sql.fetch("SELECT subject, actor, cert_id FROM certaudit WHERE action = 'key.destroyed'")
    assert ("www", "replica:test") == (entry["subject"], entry["actor"])
    assert entry["cert_id"] == await sql.fetchval("SELECT id FROM certificate WHERE generation = 1")


async def test_what_is_destroyed_cannot_be_opened_and_its_certificate_stays(keys, issuances, sql):
    await keys.rotated()
    await keys.left(LATER)
    first = await sql.fetchval("SELECT id FROM certificate WHERE generation = 1")

    assert [] == list(await certificates.pairs(issuances.database, [first]))
    assert b"BEGIN CERTIFICATE" in (await certificates.get(issuances.database, first)).certificate.chain_pem
    assert 1 == await sql.fetchval("SELECT count(*) FROM key_material WHERE destroyed_at IS NOT NULL")


async def test_while_a_target_is_not_proved_to_have_moved_on_nothing_is_destroyed(keys, sql):
    """Not even long after: it is kept for a week more, from when all have."""
    await keys.rotated(target=True)
    await sql.execute("UPDATE delivery SET proved = 1")
    kept = await keys.left(LATER)
    await sql.execute("UPDATE delivery SET proved = 2")

    assert [1, 2] == kept == await keys.left(LATER + timedelta(days=1))
    assert [2] == await keys.left(LATER + KEPT_FOR + timedelta(minutes=1))


async def test_what_is_served_is_kept_though_it_has_expired(keys, issuances, sql):
    declared = await issuances.declare()
    await issuances.store(await issuances.claim(), declared, days=1)
    await keys.complete()
    await sql.execute("UPDATE secret SET issuer = 'upload'")  # nobody renews it
    await turn_clock(sql, timedelta(days=3))
    await certificates.lapse(issuances.database, limit=10, actor="replica:test")

    assert "expired" == await sql.fetchval("SELECT status FROM certificate")
    assert [1] == await keys.left(timedelta(days=30))


async def test_a_key_that_must_sign_its_revocation_is_kept_until_it_has(keys, issuances):
    await keys.rotated()
    await revocations.request(
        issuances.database,
        "www",
        generation=1,
        reason=RevocationReason.SUPERSEDED,
        at_once=False,
        actor="person:test",
    )

    assert [1, 2] == await keys.left(LATER)


async def test_a_deleted_secret_leaves_no_key(keys, issuances, sql):
    await keys.rotated()
    await declarations.remove(issuances.database, "www", actor="person:test")
    await sql.execute("UPDATE certificate SET status = 'expired' WHERE generation = 2")
    await sql.execute("INSERT INTO retired_key SELECT id, now() FROM certificate ON CONFLICT DO NOTHING")

    assert [] == await keys.left(LATER)


@pytest.fixture
def given_up(issuances, sql):
    """Plans an order for www, and gives it up."""

    async def make():
        declared = await issuances.declare()
        claim = await issuances.claim()
        key = generate(KeyType.ECDSA_P256)
        sealed = await issuances.sealer.seal(
            pkcs8(key), key_id=KeyId(uuid4()), purpose="leaf", spki_sha256=spki_sha256(key.public_key())
        )
        await orders.plan(issuances.database, claim.lease, declared, csr=b"csr", key=sealed, actor="r")
        await rotations.fail(
            issuances.database,
            claim.lease,
            error={"what": "no", "hint": "none"},
            pause=timedelta(0),
            abandon_order=True,
            actor="r",
        )
        return sealed

    return make


async def sealed(sql):
    return [row["id"] for row in await sql.fetch("SELECT id FROM key_material WHERE dek_wrapped IS NOT NULL")]


async def test_the_key_of_an_order_that_was_given_up_is_destroyed_a_week_later(issuances, given_up, sql):
    key = await given_up()
    await turn_clock(sql, KEPT_FOR - timedelta(minutes=1))
    early = await retirement.destroy_of_orders(issuances.database, limit=10, actor="replica:test")
    kept = await sealed(sql)
    await turn_clock(sql, LATER)
    due = await retirement.destroy_of_orders(issuances.database, limit=10, actor="replica:test")
    again = await retirement.destroy_of_orders(issuances.database, limit=10, actor="replica:test")
    (entry,) = await sql.fetch("SELECT subject, actor, payload FROM certaudit WHERE action = 'key.destroyed'")

    assert [(0, 0), (1, 1), (0, 0)] == [early, due, again]
    assert [key.key_id] == kept
    assert [] == await sealed(sql)
    assert ("www", "replica:test") == (entry["subject"], entry["actor"])
    assert str(key.key_id) == json.loads(entry["payload"])["key_id"]


async def test_a_key_that_an_order_under_way_has_as_well_stays(issuances, given_up, sql):
    key = await given_up()
    await sql.execute(
        "INSERT INTO acme_order (rotation_id, issuer, state, domains, csr, key_id)"
        " SELECT rotation_id, issuer, 'ordered', domains, csr, key_id FROM acme_order"
    )
    await turn_clock(sql, LATER)

    assert (1, 0) == await retirement.destroy_of_orders(issuances.database, limit=10, actor="replica:test")
    assert [key.key_id] == await sealed(sql)


async def test_a_key_of_which_a_certificate_came_after_all_stays(issuances, sql):
    certificate = await issuances.issue(await issuances.declare())
    await sql.execute("UPDATE acme_order SET state = 'abandoned', key_until = certvoy_now()")

    assert (1, 0) == await retirement.destroy_of_orders(issuances.database, limit=10, actor="replica:test")
    assert [certificate.key_id] == await sealed(sql)


async def test_the_scheduler_destroys_keys_of_orders(issuances, given_up, sql):
    await given_up()
    await turn_clock(sql, LATER)
    tokens = Tokens(issuances.database)
    await Scheduler(database=issuances.database, tokens=tokens, clock=SystemClock(), actor="r").step()

    assert [] == await sealed(sql)
