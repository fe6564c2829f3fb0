"""All that a CA has issued, replaced: because it must be revoked, or to see how long that would take."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sds_server.errors import CallerError
from sds_server.inventory import audit, revocations, rotations, secrets
from sds_server.inventory.database import Database
from sds_server.model import Reason, RevocationReason

DRILL: Final = "drill"
"""In the audit, why a Rotation of a drill was opened: nothing is revoked after it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many are to be replaced, and how far they are; ``replaced``: proved, or there is no Target."""

    total: int
    waiting: int
    rolling_out: int
    replaced: int
    revoked: int


@dataclass(frozen=True, slots=True)
class Begun:
    """What one batch has opened; ``after``: where the next begins, None: this was the last."""

    since: datetime
    opened: int
    passed_over: int
    after: str | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far it is; ``done_at``: when the last certificate is issued, by the CA's limits."""

    progress: Progress
    done_at: datetime | None


async def now(database: Database) -> datetime:
    """Return the database's time, from which on a mass revocation is followed."""
    async with database.transaction() as tx:
        moment: datetime = await tx.value("now")
    return moment


async def begun(
    database: Database, issuer: str, *, reason: RevocationReason, at_once: bool, drill: bool, actor: str
) -> None:
    """Audit that somebody wants all of it replaced; each of them has its own entries besides."""
    detail = {"reason": reason, "at_once": at_once, "drill": drill}
    async with database.transaction() as tx:
        await audit.append(tx, action="issuer.revoking", actor=actor, subject=issuer, detail=detail)


async def batch(database: Database, issuer: str, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
    """Return (Secret, generation) of what is served of this issuer, by name, behind ``after``."""
    async with database.transaction() as tx:
        rows = await tx.rows("served_of_issuer", issuer, after, limit)
    return [(row["name"], row["generation"]) for row in rows]


async def drill(database: Database, secret: str, *, actor: str) -> bool:
    """Replace what the Secret is served with, and revoke nothing; False: it is gone, or one is under way."""
    try:
        async with database.transaction() as tx:
            await secrets.lock(tx, secret)
            if await tx.row("open_rotation", secret) is not None:
                return False
            await rotations.open_in(tx, secret, reason=Reason.REVOKED, actor=actor, why=DRILL)
    except CallerError:
        return False
    return True


async def revoke(
    database: Database,
    secret: str,
    generation: int,
    *,
    reason: RevocationReason,
    at_once: bool,
    actor: str,
) -> bool:
    """Want it revoked, after a successor is proved or at once; False: it is over already."""
    try:
        await revocations.request(
            database, secret, generation=generation, reason=reason, at_once=at_once, actor=actor
        )
    except CallerError:
        return False
    return True


async def progress(
    database: Database, issuer: str, *, since: datetime, limit: int
) -> tuple[Progress, Sequence[tuple[str, ...]]]:
    """Return how far it is, and the names of up to so many that are still to be ordered."""
    async with database.transaction() as tx:
        row = await tx.row("mass_progress", issuer, since)
        waiting = await tx.rows("mass_waiting", issuer, since, limit)
    assert row is not None  # noqa: S101 - counts
    return Progress(**dict(row)), [tuple(one["domains"]) for one in waiting]
