"""The audit as a verifier sees it: from the database, with files of checkpoints and public keys beside it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sds_server.audit import checkpoint, witness
from sds_server.audit.checkpoint import PublicKey, Signer
from sds_server.audit.verify import Finding, Report, Verifier
from sds_server.audit.witness import Witness
from sds_server.inventory import audit, audit_tree
from sds_server.inventory.database import Database, open_database
from sds_server.lifecycle.audit_sealer import AuditSealer
from tests.support.clocks import TurnedClock

ALL = 100_000
ORIGIN = "certvoy/test"


class Replica:
    """A sealer with its key and its file."""

    def __init__(self, database: Database, directory: Path, name: str = "one") -> None:
        self.path = directory / f"{name}.jsonl"
        self.signer = Signer(ORIGIN, Ed25519PrivateKey.generate())
        self.sealer = AuditSealer(
            database=database,
            signer=self.signer,
            witness=Witness(self.path),
            holder=name,
            actor=f"replica:{name}",
            clock=TurnedClock(),
        )

    async def step(self) -> None:
        """Witness and seal."""
        await self.sealer.step()

    @property
    def sizes(self) -> list[int]:
        """Which checkpoints its file has."""
        return [checkpoint.parse(note).size for note in witness.read(self.path).notes]


async def write(database: Database, *subjects: str) -> None:
    """Write an entry of each."""
    for subject in subjects:
        async with database.transaction() as tx:
            await audit.append(tx, action="target.removed", actor="person:alice", subject=subject)


async def verify(database: Database, keys: Iterable[PublicKey], notes: Iterable[str]) -> Report:
    """Verify all that is in the database."""
    verifier = Verifier(frozenset(keys), known=notes)
    for leaf in await audit_tree.leaves(database, first=0, limit=ALL):
        verifier.leaf(leaf.index, leaf.hash, None if leaf.entry is None else leaf.entry.document)
        if leaf.note is not None:
            verifier.checkpoint(leaf.note)
    for entry in await audit_tree.unsealed(database, after=0, limit=ALL):
        verifier.unsealed(entry.document)
    return verifier.end()


async def findings(
    connect: Mapping[str, Any], files: Sequence[Path], keys: Sequence[Path]
) -> Sequence[Finding]:
    """Return what is wrong with the audit, by what lies in these files."""
    notes = [note for file in files for note in witness.read(file).notes]
    database = await open_database(connect, size=1)
    try:
        report = await verify(database, [PublicKey.parse(key.read_text()) for key in keys], notes)
    finally:
        await database.close()
    return report.findings


async def tamper(sql: Any, *statements: str) -> None:
    """Do what certvoy's own triggers refuse, as a superuser can."""
    await sql.execute("SET session_replication_role = replica")
    for statement in statements:
        await sql.execute(statement)
    await sql.execute("SET session_replication_role = origin")


async def cut(sql: Any, size: int) -> None:
    """What an older backup holds: the audit's first ``size`` leaves."""
    await tamper(
        sql,
        f"DELETE FROM certaudit WHERE id NOT IN (SELECT event_id FROM auditleaf WHERE leaf_index < {size})",
        f"DELETE FROM auditleaf WHERE leaf_index >= {size}",
        f"DELETE FROM auditcheckpoint WHERE tree_size > {size}",
        f"UPDATE auditsealer SET tree_size = {size}, leased_until = NULL",
        "UPDATE auditsealed p SET (xid, event_id) = (SELECT a.xid, a.id FROM certaudit a"
        " JOIN auditleaf l ON l.event_id = a.id WHERE a.cluster = p.cluster"
        " ORDER BY l.leaf_index DESC LIMIT 1)"
        if size
        else "DELETE FROM auditsealed",
    )
