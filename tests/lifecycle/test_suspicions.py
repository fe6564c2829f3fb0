"""Rows that are not as certvoy wrote them: moved, damaged or put back. Not served, named, audited once."""

import json

import asyncpg
import pytest
from structlog.testing import capture_logs

from sds_server.clock import SystemClock
from sds_server.inventory import payload_roll_outs, roll_outs, rotations
from sds_server.lifecycle.payloads import Payloads
from sds_server.model import Reason
from sds_server.payloads.generic import GenericSecret
from sds_server.xds.catalog import PENDING
from tests.lifecycle.test_publisher import Replica

UNOPENED, ROLLED_BACK = "key.unopened", "secret.rolled_back"
ERROR = {"what": "no", "rule": "test", "hint": "none"}


async def issued(issuances, name="www", times=1):
    declared = await issuances.declare(name, [f"{name}.example.test"])
    made = [await issuances.issue(declared)]
    for _ in range(times - 1):
        await rotations.open_for(issuances.database, name, reason=Reason.OPERATOR, actor="person:test")
        made.append(await issuances.issue(declared))
    return made


async def told(sql, action):
    rows = await sql.fetch("SELECT subject, payload FROM certaudit WHERE action = $1 ORDER BY id", action)
    return [{"subject": row["subject"], **json.loads(row["payload"])} for row in rows]


async def put_back(sql):
    """Do what a restore of a part of the tables does, past every check."""
    await sql.execute("UPDATE certificate SET status = 'replaced'")
    await sql.execute("UPDATE certificate SET status = 'active' WHERE generation = 1")


def flipped(column, bit):
    return f"{column} = set_bit({column}, {bit}, 1 - get_bit({column}, {bit}))"


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("dek_wrapped = (SELECT dek_wrapped FROM key_material WHERE id = '{other}')", "kek"),
        ("envelope = (SELECT envelope FROM key_material WHERE id = '{other}')", "commitment"),
        ("envelope = set_byte(envelope, 0, 2)", "suite"),
        (flipped("envelope", 8 * 5), "commitment"),
        (flipped("envelope", 8 * 40), "commitment"),
        (flipped("envelope", 8 * 90), "tag"),
        (flipped("dek_wrapped", 99), "kek"),
        ("kek_uri = 'local:another'", "kek"),
        ("kek_version = 2", "kek"),
        ("suite = 2", "kek"),
        ("purpose = 'account'", "kek"),
    ],
)
async def test_a_row_that_was_moved_or_damaged_is_not_served_and_the_rule_is_audited(
    issuances, sql, damage, rule
):
    (mine,), (other,) = await issued(issuances), await issued(issuances, "other")
    change = damage.format(other=other.key_id)
    await sql.execute(f"UPDATE key_material SET {change} WHERE id = $1", mine.key_id)
    replica = Replica(issuances)
    entry = await replica.watch()
    await replica.step()
    (entry_of_audit,) = await told(sql, UNOPENED)

    assert entry is None
    assert ("www", rule, str(mine.key_id), str(mine.id)) == (
        entry_of_audit["subject"],
        entry_of_audit["rule"],
        entry_of_audit["key_id"],
        entry_of_audit["cert_id"],
    )


async def test_a_key_with_another_public_half_cannot_even_be_written(issuances, sql):
    await issued(issuances)

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await sql.execute("UPDATE key_material SET spki_sha256 = $1", bytes(32))


async def test_what_opens_again_is_served_and_told_of_again_when_it_does_not(issuances, sql):
    await issued(issuances)
    good = await sql.fetchval("SELECT envelope FROM key_material")
    await sql.execute("UPDATE key_material SET envelope = set_byte(envelope, 0, 2)")
    replica = Replica(issuances)
    await replica.watch()
    await sql.execute("UPDATE key_material SET envelope = $1", good)

    assert 1 == (await replica.step()).generation
    assert 1 == len(await told(sql, UNOPENED))


async def test_a_secret_that_was_rolled_back_is_not_served_and_says_so_once(issuances, sql):
    await issued(issuances, times=2)
    await put_back(sql)
    replica = Replica(issuances)
    with capture_logs() as logs:
        entry = await replica.watch()
        await replica.step()

    assert PENDING == entry
    (log,) = [log for log in logs if log["event"] == ROLLED_BACK]
    assert (1, 2, "www") == (log["generation"], log["audited"], log["secret"])
    assert "certvoy rotate www" in log["hint"]
    (audited,) = await told(sql, ROLLED_BACK)
    assert ("www", 1, 2) == (audited["subject"], audited["generation"], audited["audited"])


async def test_who_has_the_newer_one_keeps_it(issuances, sql):
    await issued(issuances, times=2)
    replica = Replica(issuances)
    await replica.watch()
    await put_back(sql)

    assert 2 == (await replica.step()).generation


async def test_a_newest_certificate_that_was_taken_out_is_missed(issuances, sql):
    await issued(issuances, times=2)
    await sql.execute("UPDATE certificate SET status = 'rejected' WHERE generation = 2")

    assert PENDING == await Replica(issuances).watch()


async def test_a_rotation_ends_the_suspicion(issuances, sql):
    await issued(issuances, times=2)
    await put_back(sql)
    replica = Replica(issuances)
    await replica.watch()
    await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issuances.issue(await issuances.declare())

    assert 2 < (await replica.step()).generation


async def test_what_certvoy_took_back_itself_is_no_suspicion(issuances, sql):
    _, second = await issued(issuances, times=2)
    await roll_outs.reject(issuances.database, "www", second.id, error=ERROR, actor="replica:test")

    assert 1 == (await Replica(issuances).watch()).generation
    assert [] == await told(sql, ROLLED_BACK)


async def test_one_that_was_rolled_back_holds_up_no_other(issuances, sql):
    await issued(issuances, times=2)
    await put_back(sql)
    await issued(issuances, "other")
    replica = Replica(issuances)
    replica.catalog.watch(["www"], replica.changed.append)

    assert 1 == (await replica.watch("other")).generation


@pytest.fixture
def payloads(issuances):
    return Payloads(
        database=issuances.database, sealer=issuances.sealer, clock=SystemClock(), actor="replica:test"
    )


async def test_a_payload_that_was_rolled_back_is_not_served(issuances, payloads, sql):
    for value in (b"one", b"two"):
        await payloads.put("token", GenericSecret(value=value), actor="person:test")
    await sql.execute("UPDATE payload SET outcome = 'rejected', completed_at = now() WHERE generation = 2")

    assert PENDING == await Replica(issuances).watch("token")
    assert ["token"] == [entry["subject"] for entry in await told(sql, ROLLED_BACK)]


async def test_a_payload_that_certvoy_took_back_is_no_suspicion(issuances, payloads, sql):
    for value in (b"one", b"two"):
        await payloads.put("token", GenericSecret(value=value), actor="person:test")
    await payload_roll_outs.reject(issuances.database, "token", 2, error=ERROR, actor="replica:test")

    assert 1 == (await Replica(issuances).watch("token")).generation
    assert [] == await told(sql, ROLLED_BACK)


async def test_a_payload_that_does_not_open_is_audited(issuances, payloads, sql):
    await payloads.put("token", GenericSecret(value=b"one"), actor="person:test")
    await sql.execute("UPDATE key_material SET envelope = set_bit(envelope, 720, 1 - get_bit(envelope, 720))")
    await Replica(issuances).watch("token")

    assert [("token", "tag")] == [(one["subject"], one["rule"]) for one in await told(sql, UNOPENED)]
