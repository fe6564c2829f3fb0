"""What somebody with every right to the database does to the audit, past its triggers: each of it is found.

The verifier has the public key and a copy of the replica's file of checkpoints; the rest is the database's.
"""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sds_server.audit import witness
from sds_server.audit.checkpoint import Checkpoint, Signer
from sds_server.audit.tree import Edge
from sds_server.inventory import audit_tree
from tests.support.audits import ALL, ORIGIN, Replica, cut, tamper, verify, write

CHECKPOINTS = (3, 6, 9, 12)


def at(index):
    """The entry of a leaf."""
    return f"(SELECT event_id FROM auditleaf WHERE leaf_index = {index})"


def entry(index, change):
    return f"UPDATE certaudit SET {change} WHERE id = {at(index)}"


class Attack:
    """A superuser's connection, and what certvoy's own code can do with a stolen row or two."""

    def __init__(self, database, sql, replica):
        self.database, self.sql, self.replica = database, sql, replica

    async def do(self, *statements):
        await tamper(self.sql, *statements)

    async def recompute(self, signer=None):
        """Hash every leaf anew, with all nodes; sign every checkpoint anew, if there is a key for that."""
        edge, statements = Edge(), []
        for leaf in await audit_tree.leaves(self.database, first=0, limit=ALL):
            hashed = leaf.entry.leaf
            edge, nodes = edge.append(hashed)
            statements.append(
                f"UPDATE auditleaf SET leaf_hash = '\\x{hashed.hex()}', nodes = '\\x{b''.join(nodes).hex()}'"
                f" WHERE leaf_index = {leaf.index}"
            )
            if leaf.note is not None:
                note = (
                    "note" if signer is None else f"'{signer.sign(Checkpoint(ORIGIN, edge.size, edge.root))}'"
                )
                statements.append(
                    f"UPDATE auditcheckpoint SET root = '\\x{edge.root.hex()}', note = {note}"
                    f" WHERE tree_size = {edge.size}"
                )
        await self.do(*statements)

    async def swap(self, column):
        """Two rows swap what they have in a column."""
        await self.do(
            "CREATE TEMP TABLE two AS SELECT l.leaf_index, a.* FROM certaudit a"
            " JOIN auditleaf l ON l.event_id = a.id WHERE l.leaf_index IN (4, 7)",
            f"UPDATE certaudit SET {column} = -{column} WHERE id IN (SELECT id FROM two)"
            if column == "id"
            else "SELECT",
            f"UPDATE certaudit a SET {column} = other.{column} FROM two mine, two other"
            f" WHERE abs(a.id) = mine.id AND other.id <> mine.id",
        )

    async def insert_behind(self):
        """An entry as if it had been written then."""
        await self.do(
            "INSERT INTO certaudit (action, actor, timestamp, xid, subject, payload, cluster)"
            f" SELECT 'target.removed', 'person:m', timestamp, xid, 'fake', '{{}}', cluster FROM certaudit"
            f" WHERE id = {at(4)}"
        )

    async def insert_leaf(self):
        """The same, with a leaf in the middle, and all after it moved by one."""
        await self.insert_behind()
        await self.do(
            "UPDATE auditleaf SET leaf_index = leaf_index + 1001 WHERE leaf_index >= 4",
            "UPDATE auditleaf SET leaf_index = leaf_index - 1000 WHERE leaf_index > 1000",
            "INSERT INTO auditleaf SELECT 4, max(id), sha256('x'), '' FROM certaudit",
        )
        await self.recompute()

    async def restore_and_go_on(self):
        """An older backup, onto which certvoy seals as ever, on a machine that has lost its file."""
        await cut(self.sql, 9)
        self.replica.sealer._witness = witness.Witness(self.replica.path.with_name("new.jsonl"))
        await write(self.database, "x", "y", "z")
        await self.replica.step()

    async def hide(self):
        """What is written next is passed over by the sealer, which looks just before and not after."""
        head = await audit_tree.head(self.database)
        await write(self.database, "hidden")
        await self.do(
            "UPDATE auditsealed p SET (xid, event_id) ="
            " (SELECT xid, id FROM certaudit ORDER BY id DESC LIMIT 1)"
        )
        await write(self.database, "shown")
        await self.replica.sealer._seal_batch(head)


def stranger():
    return Signer(ORIGIN, Ed25519PrivateKey.generate())


async def edit_and_recompute(attack, signer=None):
    await attack.do(entry(4, "actor = 'person:nobody'"))
    await attack.recompute(signer)


TAMPERINGS = {
    "edit a payload": (4, lambda do: do.do(entry(4, "payload = '{}'"))),
    "edit an actor": (4, lambda do: do.do(entry(4, "actor = 'person:nobody'"))),
    "change the times": (
        0,
        lambda do: do.do("UPDATE certaudit SET timestamp = timestamp - interval '1 day'"),
    ),
    "change one time by a microsecond": (
        4,
        lambda do: do.do(entry(4, "timestamp = timestamp + interval '1 microsecond'")),
    ),
    "swap two payloads": (4, lambda do: do.swap("payload")),
    "swap two ids": (4, lambda do: do.swap("id")),
    "delete in the middle": (4, lambda do: do.do(f"DELETE FROM certaudit WHERE id = {at(4)}")),
    "delete in the middle with its leaf": (
        4,
        lambda do: do.do(
            f"DELETE FROM certaudit WHERE id = {at(4)}", "DELETE FROM auditleaf WHERE leaf_index = 4"
        ),
    ),
    "delete the tail": (9, lambda do: cut(do.sql, 9)),
    "insert behind": (12, lambda do: do.insert_behind()),
    "insert a leaf in the middle": (3, lambda do: do.insert_leaf()),
    "restore an older backup and go on": (9, lambda do: do.restore_and_go_on()),
    "edit and recompute, the notes as they were": (3, edit_and_recompute),
    "edit, recompute and forge every note": (0, lambda do: edit_and_recompute(do, stranger())),
    "forge the newest note": (
        9,
        lambda do: do.do(
            "UPDATE auditcheckpoint SET note = "
            f"'{stranger().sign(Checkpoint(ORIGIN, 12, bytes(32)))}' WHERE tree_size = 12"
        ),
    ),
    "delete one checkpoint": (5, lambda do: do.do("DELETE FROM auditcheckpoint WHERE tree_size = 6")),
    "delete all checkpoints": (0, lambda do: do.do("DELETE FROM auditcheckpoint")),
    "replay an older note": (
        9,
        lambda do: do.do(
            "UPDATE auditcheckpoint SET note = (SELECT note FROM auditcheckpoint WHERE tree_size = 9)"
            " WHERE tree_size = 12"
        ),
    ),
    "have the sealer pass over an entry": (13, lambda do: do.hide()),
}
"""What is done -> the first leaf that the verifier names: where a leaf agrees with its entry, that after the
newest checkpoint that is still true."""


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_a_tampering_by_who_may_do_everything_is_found(tampering, database, sql, tmp_path):
    replica = Replica(database, tmp_path)
    for first in range(0, CHECKPOINTS[-1], 3):
        await write(database, *(str(number) for number in range(first, first + 3)))
        await replica.step()
    assert [*CHECKPOINTS] == replica.sizes
    kept = witness.read(replica.path).notes
    assert () == (await verify(database, [replica.signer.public], kept)).findings
    first, attack = TAMPERINGS[tampering]

    await attack(Attack(database, sql, replica))

    report = await verify(database, [replica.signer.public], kept)
    assert report.findings
    assert first == report.findings[0].index, report.findings
