"""Freezes: an operator, or we where only a person can decide, holds a Secret as it is.

Frozen, nothing new is issued for it, nothing is offered to more Targets, nothing is taken back. What is
served is served on, and what is proved is written down.
"""

from dataclasses import dataclass
from datetime import datetime

from sds_server.errors import Conflict
from sds_server.inventory import audit, feed, secrets
from sds_server.inventory.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Freeze:
    """Since when, by whom and why a Secret is held."""

    at: datetime
    by: str
    reason: str


async def of(database: Database, secret: str) -> Freeze | None:
    """Return how the Secret is held; None: it is not."""
    async with database.transaction() as tx:
        row = await tx.row("frozen", secret)
    return None if row is None else Freeze(row["frozen_at"], row["frozen_by"], row["frozen_reason"])


async def freeze(database: Database, secret: str, *, reason: str, actor: str) -> None:
    """Hold the Secret as it is; one that is held already stays with its first reason.

    Raises:
        NotFound: there is no such Secret.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        await freeze_in(tx, secret, reason=reason, actor=actor)


async def freeze_in(tx: Transaction, secret: str, *, reason: str, actor: str) -> None:
    """As `freeze`, in a transaction that holds the Secret's lock."""
    if await tx.value("freeze_secret", secret, actor, reason):
        await audit.append(tx, action="secret.frozen", actor=actor, subject=secret, detail={"reason": reason})


async def resume(database: Database, secret: str, *, actor: str) -> None:
    """Let the Secret go on. Where we asked, what is being rolled out goes to all, whoever refused it.

    Raises:
        NotFound: there is no such Secret.
        Conflict: it is not held.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        row = await tx.row("frozen", secret)
        if row is None:
            raise Conflict(
                f"secret {secret}: it is not frozen", hint=f"`certvoy why {secret}` says how it is"
            )
        await tx.rows("resume_secret", secret)
        if row["frozen_by"].startswith("replica:"):  # we asked, and this is the answer
            await tx.rows("overrule", secret)
        await audit.append(tx, action="secret.resumed", actor=actor, subject=secret)
        await feed.tell_secret(tx, secret)
        await feed.tell_work(tx)
