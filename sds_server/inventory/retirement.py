"""Retirement: keys of Certificates that are over, kept for who has not moved on, then destroyed.

Destroying the wrapped data key is destroying the private key, in every backup too that is restored beside a
later KMS. History keeps the Certificate and its chain.
"""

from datetime import timedelta
from typing import Final

from sds_server.crashpoint import crashpoint
from sds_server.inventory import audit
from sds_server.inventory.database import Database, Transaction
from sds_server.model import CertificateId

KEPT_FOR: Final = timedelta(days=7)
"""After all Targets were proved to serve a later one: for who restores an old state of a proxy or of ours."""


async def retire(tx: Transaction, cert_id: CertificateId) -> None:
    """Let the time run after which the key of a Certificate that is over is destroyed."""
    await tx.rows("retire_key", cert_id, KEPT_FOR)


async def destroy(database: Database, *, limit: int, actor: str) -> tuple[int, int]:
    """Destroy the keys whose time is over; return how many were looked at, and destroyed.

    One that somebody still needs is looked at again after as long again.
    """
    async with database.transaction() as tx:
        rows = await tx.rows("retired_keys", limit)
        destroyed = 0
        for row in rows:
            if row["kept"]:
                await tx.rows("keep_key", row["cert_id"], KEPT_FOR)
                continue
            if await tx.value("destroy_key", row["key_id"], row["cert_id"]) is not None:
                destroyed += 1
                crashpoint("key.destroying")
                await audit.append(
                    tx,
                    action="key.destroyed",
                    actor=actor,
                    subject=row["secret"],
                    cert_id=row["cert_id"],
                    detail={"key_id": str(row["key_id"]), "generation": row["generation"]},
                )
            await tx.rows("forget_retired", row["cert_id"])
    return len(rows), destroyed


async def destroy_of_orders(database: Database, *, limit: int, actor: str) -> tuple[int, int]:
    """Destroy the keys of orders that were given up; return how many were looked at, and destroyed.

    They are kept for as long as others: a CA may have issued for one, and somebody may ask what became of it.
    One of which a Certificate came after all stays.
    """
    async with database.transaction() as tx:
        rows = await tx.rows("destroy_order_keys", limit)
        destroyed = [row for row in rows if row["destroyed"] is not None]
        for row in destroyed:
            detail = {"key_id": str(row["destroyed"]), "order": row["id"], "issuer": row["issuer"]}
            await audit.append(tx, action="key.destroyed", actor=actor, subject=row["secret"], detail=detail)
    return len(rows), len(destroyed)


async def destroy_payloads(database: Database, *, limit: int, actor: str) -> int:
    """Destroy the data keys of sealed payloads that are over, and say how many there were."""
    async with database.transaction() as tx:
        rows = await tx.rows("retire_payload_keys", KEPT_FOR, limit)
        for row in rows:
            detail = {"key_id": str(row["key_id"]), "generation": row["generation"]}
            await audit.append(tx, action="key.destroyed", actor=actor, subject=row["secret"], detail=detail)
    return len(rows)
