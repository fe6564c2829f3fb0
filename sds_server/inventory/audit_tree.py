"""The Merkle tree over the audit, as it is stored: appended to under a lease, and read for proofs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sds_server.audit.checkpoint import Checkpoint
from sds_server.audit.entry import Entry
from sds_server.audit.tree import HASH_BYTES, Edge, Node, edge_nodes
from sds_server.crashpoint import crashpoint
from sds_server.errors import AuditBroken, StaleLease
from sds_server.inventory.database import Database, Row

LEASE: Final = timedelta(seconds=10)
"""For so long a replica that died or froze keeps others from sealing."""


@dataclass(frozen=True, slots=True)
class Head:
    """How the tree stands. ``note`` None: it is empty; ``unsealed``: how old what has no leaf is."""

    size: int
    note: str | None
    unsealed: timedelta | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf as it is stored; ``entry`` None: that is gone. ``note``: the checkpoint that ends with it."""

    index: int
    hash: bytes
    entry: Entry | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Appended:
    """Leaves that are about to be sealed: the entry, its hash, and the nodes that it completes."""

    entry: Entry
    hash: bytes
    nodes: bytes


async def head(database: Database) -> Head:
    """Return how the tree stands.

    Raises:
        AuditBroken: leaves, checkpoints and the sealer's own count are not of one size, or it is to go on
        behind an entry that was not sealed.
    """
    async with database.transaction() as tx:
        row = await tx.row("audit_head")
    assert row is not None  # noqa: S101 - the migration inserts it
    sizes = {row["leaves"], row["tree_size"], row["checkpoint"] or 0}
    if len(sizes) > 1:
        raise AuditBroken(
            f"the audit has {row['leaves']} leaves, its newest checkpoint {row['checkpoint'] or 0}, and"
            f" {row['tree_size']} were sealed: rows of auditleaf or auditcheckpoint were removed or added"
        )
    if row["misplaced"]:
        raise AuditBroken(
            "a row of auditsealed names an entry that is not there as it was sealed: it was changed, so that"
            " entries would be left out, or the entry was",
            hint="find out by `certvoy audit verify`, and by who may write there; then set the row to the"
            " entry of that cluster's last leaf",
        )
    return Head(row["leaves"], row["note"], row["unsealed"])


async def size(database: Database) -> int:
    """Return how many leaves there are, whether they fit to anything or not."""
    async with database.transaction() as tx:
        return int(await tx.value("audit_size"))


async def claim(database: Database, *, holder: str) -> int | None:
    """Return the number of a lease to seal; None: another replica has it."""
    async with database.transaction() as tx:
        lease_no: int | None = await tx.value("claim_audit_sealer", holder, LEASE)
    return lease_no


async def to_seal(database: Database, *, limit: int) -> Sequence[Entry]:
    """Return the next entries that have no leaf and before which none can come any more, in their order."""
    async with database.transaction() as tx:
        return [_entry(row) for row in await tx.rows("entries_to_seal", limit)]


async def seal(
    database: Database, lease_no: int, appended: Sequence[Appended], checkpoint: Checkpoint, *, note: str
) -> None:
    """Append the leaves with their checkpoint, all or none.

    Raises:
        StaleLease: another replica has the lease, or has appended meanwhile; nothing was written.
    """
    places = {leaf.entry.cluster: leaf.entry for leaf in appended}
    async with database.transaction() as tx:
        size = await tx.value(
            "seal_audit",
            lease_no,
            checkpoint.size - len(appended),
            [leaf.entry.id for leaf in appended],
            [leaf.hash for leaf in appended],
            [leaf.nodes for leaf in appended],
            [*places],
            [str(entry.xid) for entry in places.values()],
            [entry.id for entry in places.values()],
            checkpoint.root,
            note,
        )
        if size is None:
            raise StaleLease("audit: another replica seals now")
        crashpoint("audit.sealing")


async def nodes(database: Database, wanted: Iterable[Node]) -> Mapping[Node, bytes]:
    """Return the hashes of these subtrees.

    Raises:
        AuditBroken: a leaf beside which one should lie is gone, or has not as many.
    """
    by_leaf = {node: node.completed_by for node in wanted}
    async with database.transaction() as tx:
        found = {row["leaf_index"]: row for row in await tx.rows("audit_nodes", [*{*by_leaf.values()}])}
    return {node: _hash(node, found.get(leaf)) for node, leaf in by_leaf.items()}


async def edge(database: Database, size: int) -> Edge:
    """Return the right edge of the first ``size`` leaves.

    Raises:
        AuditBroken: a leaf is gone.
    """
    return Edge.of(size, await nodes(database, edge_nodes(size)))


async def leaves(database: Database, *, first: int, limit: int) -> Sequence[Leaf]:
    """Return leaves from ``first`` on, with their entries."""
    async with database.transaction() as tx:
        rows = await tx.rows("audit_leaves", first, limit)
    return [
        Leaf(row["leaf_index"], row["leaf_hash"], None if row["id"] is None else _entry(row), row["note"])
        for row in rows
    ]


async def unsealed(database: Database, *, after: int, limit: int) -> Sequence[Entry]:
    """Return entries that are in no leaf, by id, those behind ``after``."""
    async with database.transaction() as tx:
        return [_entry(row) for row in await tx.rows("audit_unsealed", after, limit)]


async def find(database: Database, entry_id: int) -> tuple[int, Entry] | None:
    """Return an entry with its leaf's index; None: it has none."""
    async with database.transaction() as tx:
        row = await tx.row("audit_leaf", entry_id)
    return None if row is None else (row["leaf_index"], _entry(row))


async def exists(database: Database, entry_id: int) -> bool:
    """Whether there is such an entry, sealed or not."""
    async with database.transaction() as tx:
        return bool(await tx.value("audit_entry_exists", entry_id))


def _entry(row: Row) -> Entry:
    return Entry(
        id=row["id"],
        cert_id=None if row["cert_id"] is None else str(row["cert_id"]),
        action=row["action"],
        actor=row["actor"],
        timestamp=row["timestamp"],
        xid=int(row["xid"]),
        cluster=row["cluster"],
        subject=row["subject"],
        payload=row["payload"],
    )


def _hash(node: Node, row: Row | None) -> bytes:
    if row is not None and node.level == 0:
        hashed: bytes = row["leaf_hash"]
        return hashed
    start = (node.level - 1) * HASH_BYTES
    hashed = b"" if row is None else row["nodes"][start : start + HASH_BYTES]
    if len(hashed) != HASH_BYTES:
        raise AuditBroken(f"leaf {node.completed_by} of the audit is gone, or was changed")
    return hashed
