"""Rows that are not as certvoy wrote them: what the audit tells of that, and what is told to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sds_server.inventory import audit
from sds_server.inventory.database import Database
from sds_server.model import CertificateId, SealedKey


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A Secret's newest generation is ``served``, and the audit tells of ``told``, which is newer."""

    secret: str
    served: int | None
    told: int


async def rolled_back(
    database: Database, *, certificates: Sequence[str] = (), payloads: Sequence[str] = ()
) -> Sequence[RolledBack]:
    """Return those of these Secrets whose newest generation is not the one that the audit holds."""
    async with database.transaction() as tx:
        rows = await tx.rows("rolled_back", certificates) if certificates else []
        rows += await tx.rows("rolled_back_payloads", payloads) if payloads else []
    return [RolledBack(row["name"], row["served"], row["told"]) for row in rows]


async def tell_rolled_back(database: Database, found: RolledBack, *, actor: str) -> None:
    """Write that a Secret was rolled back, and is not served from here as it stands."""
    async with database.transaction() as tx:
        await audit.append(
            tx,
            action="secret.rolled_back",
            actor=actor,
            subject=found.secret,
            detail={"generation": found.served, "audited": found.told},
        )


async def tell_unopened(
    database: Database,
    secret: str,
    key: SealedKey,
    *,
    cert_id: CertificateId | None,
    rule: str,
    why: str,
    actor: str,
) -> None:
    """Write that a key did not open, and by which rule."""
    async with database.transaction() as tx:
        await audit.append(
            tx,
            action="key.unopened",
            actor=actor,
            subject=secret,
            cert_id=cert_id,
            detail={"key_id": str(key.key_id), "kek_uri": key.kek_uri, "rule": rule, "why": why},
        )
