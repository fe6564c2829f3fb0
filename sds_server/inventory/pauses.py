"""Pauses: which CAs are left alone by every replica, until when, and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sds_server.inventory import audit, feed
from sds_server.inventory.database import Database


@dataclass(frozen=True, slots=True)
class Pause:
    """An issuer that nobody asks; ``over``: its time has passed, so that one may ask whether it answers.

    ``until`` None: a person must act first.
    """

    issuer: str
    since: datetime
    until: datetime | None
    error: Mapping[str, Any]
    over: bool


async def begin(
    database: Database,
    issuers: Collection[str],
    *,
    lasts: timedelta | None,
    error: Mapping[str, Any],
    actor: str,
) -> None:
    """Leave these issuers alone for so long, None: until a person acts.

    One that is paused already stays so at least as long.
    """
    async with database.transaction() as tx:
        for row in await tx.rows("pause_issuers", sorted(issuers), lasts, dict(error)):
            if row["begun"]:  # one that goes on for longer is no news
                detail = {"until": row["until"], "error": error}
                await audit.append(
                    tx, action="issuer.paused", actor=actor, subject=row["issuer"], detail=detail
                )


async def of(database: Database, issuers: Collection[str]) -> Sequence[Pause]:
    """Return the pauses of these issuers."""
    async with database.transaction() as tx:
        return [Pause(**dict(row)) for row in await tx.rows("issuer_pauses", list(issuers))]


async def hasten(database: Database, issuers: Collection[str], *, actor: str) -> Sequence[str]:
    """Let these be asked at once whether they answer, after which work goes on; returns which were paused."""
    async with database.transaction() as tx:
        hastened = [str(row["issuer"]) for row in await tx.rows("hasten_issuer_pause", sorted(issuers))]
        for issuer in hastened:
            await audit.append(tx, action="issuer.resumed", actor=actor, subject=issuer)
    return sorted(hastened)


async def take(database: Database, issuer: str, *, hold_for: timedelta) -> datetime | None:
    """Take it upon us to ask whether the issuer answers; None: another replica does, or it is too early.

    The moment that is returned is what `prolong` and `end` are told.
    """
    async with database.transaction() as tx:
        until: datetime | None = await tx.value("take_issuer_pause", issuer, hold_for)
    return until


async def prolong(
    database: Database, issuer: str, taken: datetime, *, lasts: timedelta, error: Mapping[str, Any]
) -> None:
    """It does not answer: leave it alone for so long from now."""
    async with database.transaction() as tx:
        await tx.rows("prolong_issuer_pause", issuer, taken, lasts, dict(error))


async def end(database: Database, issuer: str, taken: datetime, *, actor: str) -> datetime | None:
    """It answers: tell every replica that there is work, and return since when it was left alone.

    None: somebody was told meanwhile to leave it alone for longer, and it stays so.
    """
    async with database.transaction() as tx:
        since: datetime | None = await tx.value("end_issuer_pause", issuer, taken)
        if since is not None:
            detail = {"since": since}
            await audit.append(tx, action="issuer.answered", actor=actor, subject=issuer, detail=detail)
            await feed.tell_work(tx)
    return since
