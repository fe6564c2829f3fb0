"""CAs in trouble: how often each failed in a row, and which is asked instead, for all replicas."""

from collections.abc import Collection, Mapping
from typing import Any

from sds_server.inventory import audit
from sds_server.inventory.database import Database
from sds_server.lifecycle.fallback import Choice, Standing
from sds_server.model import Lease


async def standings(database: Database, issuers: Collection[str]) -> Mapping[str, Standing]:
    """Return how each of these issuers stands."""
    async with database.transaction() as tx:
        rows = await tx.rows("standings", sorted(issuers))
    return {
        row["issuer"]: Standing(
            paused=row["paused"],
            paused_for=row["paused_for"],
            failures=row["failures"],
            failed_ago=row["failed_ago"],
            error=row["error"],
        )
        for row in rows
    }


async def note(database: Database, issuers: Collection[str], *, error: Mapping[str, Any]) -> None:
    """Count one more failure in a row of these issuers."""
    async with database.transaction() as tx:
        await tx.rows("note_trouble", sorted(issuers), dict(error))


async def end(database: Database, issuers: Collection[str]) -> None:
    """These deliver, or answer again: they begin anew."""
    async with database.transaction() as tx:
        await tx.rows("end_trouble", sorted(issuers))


async def fell_back(database: Database, lease: Lease, choice: Choice, *, actor: str) -> None:
    """Say in the audit which issuer is asked instead of the first, and why."""
    async with database.transaction() as tx:
        await audit.append(
            tx,
            action="rotation.fell_back",
            actor=actor,
            subject=lease.secret,
            detail={"rotation": lease.rotation, "issuer": choice.issuer, "why": choice.why},
        )
