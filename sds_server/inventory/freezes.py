"""Freezes: an operator, or we where only a person can decide, holds a Secret as it is.

Frozen, nothing new is issued for it, nothing is offered to more Targets, nothing is taken back. What is
served is served on, and what is proved is written down.
"""

from sds_server.errors import Conflict
from sds_server.inventory import audit, feed, secrets
from sds_server.inventory.database import Database, Transaction
from sds_server.model import Freeze


async def of(database: Database, secret: str) -> Freeze | None:
    """Return how the Secret is held; None: it is not."""
    async with database.transaction() as tx:
        return await of_in(tx, secret)


async def of_in(tx: Transaction, secret: str) -> Freeze | None:
    """Return the same, as a transaction that is under way sees it."""
    row = await tx.row("frozen", secret)
    return None if row is None else secrets.freeze_of(row)


async def check_in(tx: Transaction, secret: str) -> None:
    """Refuse what would give the Secret another Certificate, in a transaction that holds its lock.

    Raises:
        Conflict: it is held.
    """
    held = await of_in(tx, secret)
    if held is not None:
        raise Conflict(
            f"secret {secret}: it is frozen by {held.by}: {held.reason}",
            hint=f"`certvoy resume {secret}` first",
        )


async def freeze(database: Database, secret: str, *, reason: str, actor: str) -> bool:
    """Hold the Secret as it is; one that is held already stays with its first reason. Say whether it was not.

    Raises:
        NotFound: there is no such Secret.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        return await freeze_in(tx, secret, reason=reason, actor=actor)


async def freeze_in(tx: Transaction, secret: str, *, reason: str, actor: str) -> bool:
    """As `freeze`, in a transaction that holds the Secret's lock."""
    if not await tx.value("freeze_secret", secret, actor, reason):
        return False
    detail = await _of_rotation(tx, secret) | {"reason": reason}
    await audit.append(tx, action="secret.frozen", actor=actor, subject=secret, detail=detail)
    return True


async def resume(database: Database, secret: str, *, actor: str) -> None:
    """Let the Secret go on. Where we asked, what is being rolled out goes to all, whoever refused it.

    Raises:
        NotFound: there is no such Secret.
        Conflict: it is not held.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        held = await of_in(tx, secret)
        if held is None:
            raise Conflict(
                f"secret {secret}: it is not frozen", hint=f"`certvoy why {secret}` says how it is"
            )
        if held.asks:  # this is the answer
            await tx.rows("overrule", secret)
        await _resume(tx, secret, actor=actor)


async def answer_in(tx: Transaction, secret: str, *, actor: str) -> bool:
    """Let the Secret go on where we asked, as that is decided; the caller holds its lock. Say whether."""
    held = await of_in(tx, secret)
    if held is None or not held.asks:
        return False
    await _resume(tx, secret, actor=actor)
    return True


async def _resume(tx: Transaction, secret: str, *, actor: str) -> None:
    await tx.rows("resume_secret", secret)
    detail = await _of_rotation(tx, secret)
    await audit.append(tx, action="secret.resumed", actor=actor, subject=secret, detail=detail)
    await feed.tell_secret(tx, secret)
    await feed.tell_work(tx)


async def _of_rotation(tx: Transaction, secret: str) -> dict[str, object]:
    """Return what makes it a step of the open Rotation, so that whoever waits for that is told."""
    row = await tx.row("open_rotation", secret)
    return {} if row is None else {"rotation": row["id"]}
