"""The control plane's own CAs, oldest first: one a generation, even when many replicas make one together."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from cryptography import x509

from sds_server.inventory import audit, feed, sealed_keys
from sds_server.inventory.database import Database, Transaction
from sds_server.model import KeyId, SealedKey


@dataclass(frozen=True, slots=True)
class ControlCa:
    """A CA that is trusted until it expires; which one signs is decided by `authority.signer`."""

    generation: int
    key_id: KeyId
    certificate: x509.Certificate
    created_at: datetime


async def unexpired(database: Database) -> Sequence[ControlCa]:
    """Return those that are trusted."""
    async with database.transaction() as tx:
        return await read(tx)


async def read(tx: Transaction) -> Sequence[ControlCa]:
    """Return those that are trusted."""
    return [
        ControlCa(
            generation=row["generation"],
            key_id=KeyId(row["key_id"]),
            certificate=x509.load_pem_x509_certificate(row["certificate_pem"].encode()),
            created_at=row["created_at"],
        )
        for row in await tx.rows("control_cas")
    ]


async def next_generation(database: Database) -> int:
    """Return the number of the CA that would come next."""
    async with database.transaction() as tx:
        return (await tx.value("newest_control_ca") or 0) + 1


async def keep(
    database: Database,
    generation: int,
    key: SealedKey,
    certificate_pem: str,
    *,
    not_after: datetime,
    actor: str,
) -> bool:
    """Keep this one as the generation's, unless another replica was first; return whether we were."""
    try:
        async with database.transaction() as tx:
            await sealed_keys.insert(tx, key)
            await tx.rows("insert_control_ca", generation, key.key_id, certificate_pem, not_after)
            detail = {"generation": generation, "key_ref": key.key_ref, "not_after": not_after}
            await audit.append(tx, action="control_ca.made", actor=actor, subject="control-ca", detail=detail)
            await feed.tell_rights(tx)
    except asyncpg.UniqueViolationError:
        return False
    return True
