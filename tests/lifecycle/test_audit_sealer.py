"""The sealer: every entry gets one leaf, in an order that stays, under a root that is signed."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from sds_server.audit import checkpoint, tree, witness
from sds_server.errors import AuditBroken, AuditForked, StaleLease, Unavailable
from sds_server.inventory import audit_tree
from sds_server.lifecycle import audit_sealer
from tests.support.audits import ORIGIN, Replica, cut, tamper, verify, write
from tests.support.databases import turn_clock


@pytest.fixture
def replica(database, tmp_path):
    return Replica(database, tmp_path)


async def sealed(sql):
    """The subjects in the order of their leaves."""
    rows = await sql.fetch(
        "SELECT a.subject FROM auditleaf l JOIN certaudit a ON a.id = l.event_id ORDER BY l.leaf_index"
    )
    return [row["subject"] for row in rows]


async def verified(database, *replicas):
    """What the verifier finds in the whole of it."""
    notes = [note for one in replicas for note in witness.read(one.path).notes]
    return await verify(database, [one.signer.public for one in replicas], notes)


async def test_what_was_written_is_sealed_and_witnessed(replica, database, sql):
    await write(database, "a", "b", "c")

    await replica.step()

    assert ["a", "b", "c"] == await sealed(sql)
    assert [3] == replica.sizes
    assert (0.0, False) == (replica.sealer.unsealed_s, replica.sealer.broken)
    report = await verified(database, replica)
    assert (3, 1, 0, ()) == (report.size, report.checkpoints, report.unsealed, report.findings)


async def test_where_nothing_was_written_nothing_is_sealed(replica, database):
    await replica.step()
    await write(database, "a")
    await replica.step()
    await replica.step()

    assert [1] == replica.sizes


async def test_a_backlog_is_sealed_in_batches_in_one_step(replica, database, sql, monkeypatch):
    monkeypatch.setattr(audit_sealer, "BATCH", 4)
    await write(database, *(str(number) for number in range(10)))

    await replica.step()

    assert [str(number) for number in range(10)] == await sealed(sql)
    assert [4, 8, 10] == replica.sizes
    assert () == (await verified(database, replica)).findings


async def test_what_a_transaction_that_is_under_way_may_still_write_is_waited_for(
    replica, connect, database, sql
):
    """Ids are given out in another order than transactions commit: nothing comes before what has a leaf."""
    slow = await asyncpg.connect(**connect)
    await slow.execute("BEGIN")
    await slow.execute(
        "INSERT INTO certaudit (action, actor, subject, payload) VALUES ('target.removed', 'x', 'slow', '{}')"
    )
    await write(database, "quick")

    await replica.step()
    assert [] == await sealed(sql)
    assert replica.sealer.unsealed_s >= 0

    await slow.execute("COMMIT")
    await slow.close()
    await replica.step()
    assert ["slow", "quick"] == await sealed(sql)
    assert () == (await verified(database, replica)).findings


async def test_how_long_the_oldest_entry_waits_is_told(replica, connect, database, sql):
    slow = await asyncpg.connect(**connect)
    await slow.execute("BEGIN")
    await slow.execute("SELECT pg_current_xact_id()")
    await write(database, "quick")
    await turn_clock(sql, timedelta(seconds=90))

    await replica.step()

    assert 90 <= replica.sealer.unsealed_s < 120
    await slow.close()


async def test_entries_of_another_cluster_are_sealed_first_whatever_their_transactions_are_called(
    replica, database, sql
):
    """A dump was restored into a PostgreSQL whose transactions have hardly begun."""
    await write(database, "ours")
    await sql.execute(
        "INSERT INTO certaudit (action, actor, subject, payload, xid, cluster)"
        " VALUES ('target.removed', 'x', 'theirs', '{}', '999999999', 5),"
        "        ('target.removed', 'x', 'before', '{}', '7', 0)"
    )

    await replica.step()
    await write(database, "ours again")
    await replica.step()

    assert ["before", "theirs", "ours", "ours again"] == await sealed(sql)
    assert () == (await verified(database, replica)).findings


async def test_of_two_replicas_one_seals_and_both_witness(database, sql, tmp_path):
    one, other = Replica(database, tmp_path), Replica(database, tmp_path, "other")
    await write(database, "a")
    await one.step()
    await write(database, "b")

    await other.step()
    assert ["a"] == await sealed(sql), "the lease is the first one's"
    assert [1] == other.sizes

    await turn_clock(sql, timedelta(seconds=11))
    await other.step()
    await one.step()
    assert ["a", "b"] == await sealed(sql)
    assert [1, 2] == one.sizes == other.sizes
    assert () == (await verified(database, one, other)).findings


async def test_a_sealer_that_was_frozen_writes_nothing_when_it_thaws(
    replica, database, sql, tmp_path, monkeypatch
):
    """It has its leaves ready when another replica takes over: none is written, and no index twice."""
    other = Replica(database, tmp_path, "other")
    await write(database, "a", "b")
    frozen, thawed = asyncio.Event(), asyncio.Event()
    real = audit_tree.seal

    async def freezing(*arguments, **named):
        frozen.set()
        await thawed.wait()
        await real(*arguments, **named)

    monkeypatch.setattr(audit_tree, "seal", freezing)
    step = asyncio.create_task(replica.step())
    await frozen.wait()
    monkeypatch.setattr(audit_tree, "seal", real)
    await turn_clock(sql, timedelta(seconds=11))
    await other.step()
    await write(database, "c")
    await other.step()

    thawed.set()
    await step

    assert ["a", "b", "c"] == await sealed(sql)
    assert [2, 3] == other.sizes
    await replica.step()
    assert [3] == replica.sizes
    assert () == (await verified(database, other, replica)).findings


async def test_two_that_seal_at_once_while_others_write_give_every_entry_one_leaf(
    database, sql, tmp_path, monkeypatch
):
    """Their leases are over as soon as they have them: each thinks that the other is gone."""
    monkeypatch.setattr(audit_tree, "LEASE", timedelta(milliseconds=20))
    monkeypatch.setattr(audit_sealer, "BATCH", 3)
    replicas = [Replica(database, tmp_path, name) for name in ("one", "other")]

    async def seal(replica):
        for _ in range(15):
            await replica.step()

    writers = (write(database, *(f"{writer}-{number}" for number in range(15))) for writer in range(3))
    await asyncio.gather(*map(seal, replicas), *writers)
    await turn_clock(sql, timedelta(seconds=1))
    monkeypatch.setattr(audit_tree, "LEASE", timedelta(seconds=10))
    await replicas[0].step()
    await replicas[1].step()

    assert 45 == len(await sealed(sql)) == len(set(await sealed(sql)))
    report = await verified(database, *replicas)
    assert (45, 0, ()) == (report.size, report.unsealed, report.findings)
    assert 45 == replicas[0].sizes[-1] == replicas[1].sizes[-1]


async def test_a_lease_that_is_over_seals_nothing_even_if_nobody_else_came(database, sql):
    await write(database, "a")
    lease_no = await audit_tree.claim(database, holder="one")
    (entry,) = await audit_tree.to_seal(database, limit=10)
    leaf = audit_tree.Appended(entry, entry.leaf, b"")
    await turn_clock(sql, timedelta(seconds=11))

    with pytest.raises(StaleLease):
        await audit_tree.seal(
            database, lease_no, [leaf], checkpoint.Checkpoint(ORIGIN, 1, entry.leaf), note="x"
        )

    assert [] == await sealed(sql)


async def test_a_checkpoint_that_nobody_witnessed_as_the_sealer_died_is_witnessed_by_the_next(
    replica, database, monkeypatch
):
    await write(database, "a")

    async def die(*_):
        raise RuntimeError

    monkeypatch.setattr(replica.sealer, "_keep", die)
    with pytest.raises(RuntimeError):
        await replica.step()
    assert [] == replica.sizes
    monkeypatch.undo()

    await replica.step()

    assert [1] == replica.sizes


async def test_a_shorter_audit_is_refused_at_the_start_with_what_to_do(replica, database, sql):
    await write(database, "a", "b")
    await replica.step()
    await write(database, "c")
    await replica.step()
    await cut(sql, 2)

    with pytest.raises(AuditForked, match="has 2 leaves, and 3 were witnessed in") as refused:
        await replica.sealer.begin(accept_fork=False)

    assert str(replica.path) in str(refused.value)
    assert "--acknowledge-fork" in refused.value.next_step


async def test_another_past_of_the_same_length_is_refused_at_the_start(replica, database, sql, tmp_path):
    await write(database, "a")
    await replica.step()
    await cut(sql, 0)
    await write(database, "b")
    await Replica(database, tmp_path, "other").step()

    with pytest.raises(AuditForked, match="others than those"):
        await replica.sealer.begin(accept_fork=False)


async def test_a_running_replica_seals_nothing_on_another_past(replica, database, sql):
    await write(database, "a")
    await replica.step()
    await cut(sql, 0)
    await write(database, "b")

    with pytest.raises(AuditForked):
        await replica.step()

    assert replica.sealer.broken
    assert [] == await sealed(sql)


async def test_a_fork_that_is_acknowledged_is_audited_and_goes_on_from_what_is_common(replica, database, sql):
    for subject in ("a", "b", "c"):
        await write(database, subject)
        await replica.step()
    await cut(sql, 2)

    await replica.sealer.begin(accept_fork=True)
    await replica.step()

    assert ["a", "b", "audit"] == await sealed(sql)
    payload = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'audit.fork_accepted'")
    assert '"common":2' in payload
    assert '"leaves":2' in payload
    assert '"witnessed":3' in payload
    assert [1, 2, 3] == replica.sizes
    assert 1 == witness.read(replica.path).given_up
    assert () == (await verified(database, replica)).findings
    await replica.sealer.begin(accept_fork=False)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM auditleaf WHERE leaf_index = 2",
        "DELETE FROM auditcheckpoint",
        "UPDATE auditleaf SET nodes = '' WHERE leaf_index = 1",
        "UPDATE auditleaf SET leaf_hash = sha256('x') WHERE leaf_index = 2",
        "UPDATE auditsealer SET tree_size = 0",
        # So that what is written from now on is never sealed, as if all had its leaf.
        "UPDATE auditsealed SET xid = '9223372036854775807'",
        "UPDATE auditsealed SET event_id = event_id + 1000",
        "INSERT INTO auditsealed (cluster, xid, event_id) SELECT 0, '9223372036854775807', 9",
    ],
)
async def test_nothing_is_sealed_on_a_tree_that_is_damaged(replica, database, sql, statement):
    await write(database, "a", "b", "c")
    await replica.step()
    await tamper(sql, statement)
    await write(database, "d")

    with pytest.raises(AuditBroken):
        await replica.step()

    with pytest.raises(AuditBroken):
        await replica.sealer.begin(accept_fork=False)
    await replica.sealer.begin(accept_fork=True)


async def test_a_leaf_cannot_be_so_far_off_that_nobody_can_count_them(replica, database, sql):
    """The app role may insert it, and a start that fails on it could not be acknowledged."""
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute("INSERT INTO auditleaf VALUES (9223372036854775807, 1, sha256('x'), '')")
    await sql.execute("INSERT INTO auditleaf VALUES (1::bigint << 62, 1, sha256('x'), '')")

    with pytest.raises(AuditBroken):
        await replica.step()
    await replica.sealer.begin(accept_fork=True)


async def test_a_disk_that_takes_no_checkpoint_keeps_nobody_from_starting(database, tmp_path):
    """Another replica has sealed meanwhile; a second after the start it says so, and seals nothing itself."""
    other, replica = Replica(database, tmp_path, "other"), Replica(database, tmp_path)
    await write(database, "a")
    await other.step()
    replica.path.mkdir()

    await replica.sealer.begin(accept_fork=False)
    with pytest.raises(Unavailable, match=r"audit\.checkpoints"):
        await replica.step()
    replica.path.rmdir()
    await replica.step()

    assert [1] == replica.sizes


async def test_a_proof_reads_no_more_than_the_tree_is_high(database, replica):
    await write(database, *(str(number) for number in range(37)))
    await replica.step()
    head = checkpoint.parse((await audit_tree.head(database)).note)

    wanted = tree.inclusion_nodes(5, head.size)
    nodes = await audit_tree.nodes(database, wanted)

    assert len(wanted) < 12
    leaf = (await audit_tree.leaves(database, first=5, limit=1))[0]
    path = tree.inclusion(5, head.size, nodes)
    assert tree.includes(leaf.hash, 5, head.size, path=path, root=head.root)


@pytest.mark.parametrize("table", ["auditleaf", "auditcheckpoint"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET {} = {}"])
async def test_leaves_and_checkpoints_are_append_only(replica, database, sql, table, statement):
    await write(database, "a")
    await replica.step()
    column = {"auditleaf": "leaf_index", "auditcheckpoint": "tree_size"}[table]

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
        await sql.execute(statement.format(table, column, column))
