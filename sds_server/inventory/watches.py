"""Watches: whether Targets still serve what they were proved to serve, after their Rotation is over.

A Target that serves something else is stale: it says so with its age until it serves what it should, and is
offered that again as other bytes, so that its proxy judges anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sds_server.crashpoint import crashpoint
from sds_server.inventory import audit, certificates, feed, secrets, targets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.voices import Before, Look, Wanted, again_after
from sds_server.lifecycle.states import Event
from sds_server.model import (
    CertificateId,
    SecretName,
    Target,
)

AGAIN_MIN: Final = timedelta(seconds=2)
AGAIN_SHARE: Final = 10
"""Who is not as it should be is looked at again after a tenth of the time that it has not been."""


class Seen(StrEnum):
    """What a look at a watched Target came to."""

    WELL = "well"
    PROVED = "proved"  # for the first time
    STALE = "stale"  # found so
    STILL_STALE = "still-stale"
    HEALED = "healed"
    UNKNOWN = "unknown"  # it could not be seen
    OVER = "over"  # something else is wanted meanwhile


@dataclass(frozen=True, slots=True)
class Watch:
    """A Secret at a Target that is looked at, with what it should serve."""

    secret: SecretName
    target: Target
    cert_id: CertificateId
    wanted: Wanted
    accepted: int | None
    refused: int | None
    proved: int | None
    salt: int
    salted_for: timedelta | None
    unchanged_for: timedelta
    stale_since: datetime | None
    error: str | None
    """Why it could not be seen the last time."""

    divided: bool
    """One of its instances has not accepted it: a look at any of them proves nothing."""


async def claim(database: Database, *, every: timedelta, limit: int) -> tuple[Sequence[Watch], Sequence[Row]]:
    """Return what this replica looks at now, and all keys that it has claimed: other kinds' as well.

    As many of these as ``limit``: more may be due.
    """
    async with database.transaction() as tx:
        due = await tx.rows("claim_watches", every, limit)
        return await _watched(tx, due), due


async def unproved(database: Database, secret: str, *, limit: int) -> Sequence[Watch]:
    """Return the Targets of a Secret that are not proved, while nothing of it is being rolled out."""
    async with database.transaction() as tx:
        return await _watched(tx, await tx.rows("unproved_of", secret, limit))


async def settle(database: Database, watch: Watch, look: Look, *, actor: str) -> Seen:
    """Write what was seen, and say what it came to."""
    async with database.transaction() as tx:
        if await secrets.lock_if_there(tx, watch.secret) is None:
            return Seen.OVER
        key = (watch.target.id, watch.secret)
        now = await _watched(tx, [{"target_id": key[0], "secret": key[1]}])
        if not now or now[0].cert_id != watch.cert_id:
            return Seen.OVER
        if now[0].target.looked_at != watch.target.looked_at:
            return Seen.OVER
        watch = now[0]
        seen = _meaning(watch, look)
        match seen:
            case Seen.PROVED | Seen.HEALED:
                await _prove(tx, watch, look, seen, actor=actor)
            case Seen.STALE | Seen.STILL_STALE:
                await _mark(tx, watch, look, seen, actor=actor)
            case Seen.WELL if watch.error is not None:
                await tx.rows("note_looks", watch.secret, [watch.target.id], [None], [None], None)
            case Seen.UNKNOWN:
                await tx.rows(
                    "note_looks", watch.secret, [watch.target.id], [look.error], [look.served], None
                )
                if watch.refused == watch.wanted.generation:
                    await _offer_again(tx, watch)
        if seen not in {Seen.WELL, Seen.PROVED, Seen.HEALED}:
            await tx.rows("look_again", *key, max(watch.unchanged_for / AGAIN_SHARE, AGAIN_MIN))
    return seen


def _meaning(watch: Watch, look: Look) -> Seen:
    generation = watch.wanted.generation
    if look.by is not None:
        if watch.proved == generation:
            return Seen.WELL
        if watch.divided:
            return Seen.UNKNOWN
        return Seen.PROVED if watch.stale_since is None else Seen.HEALED
    if look.served is None and not look.missing:
        return Seen.UNKNOWN
    if watch.stale_since is not None:
        return Seen.STILL_STALE
    # That nothing of it is loaded says something only of who had it so: another may not use it yet.
    has_had_it = max(watch.proved or 0, (watch.accepted or 0) if look.served else 0) >= generation
    return Seen.STALE if has_had_it else Seen.UNKNOWN  # who was not given it yet serves what it has


async def _prove(tx: Transaction, watch: Watch, look: Look, seen: Seen, *, actor: str) -> None:
    generation = watch.wanted.generation
    if not await tx.rows("prove_deliveries", watch.secret, [watch.target.id], [look.by], generation):
        return
    crashpoint("delivery.healing")
    await certificates.move(tx, watch.cert_id, Event.CONFIRMED, actor=actor, subject=watch.secret)
    detail: dict[str, object] = {"target": watch.target.id, "generation": generation, "by": look.by}
    if watch.stale_since is not None:
        detail["stale_since"] = watch.stale_since.isoformat()
    await audit.append(
        tx,
        action="delivery.healed" if seen is Seen.HEALED else "delivery.proved",
        actor=actor,
        subject=watch.secret,
        cert_id=watch.cert_id,
        detail=detail,
    )


async def _mark(tx: Transaction, watch: Watch, look: Look, seen: Seen, *, actor: str) -> None:
    await tx.value("mark_stale", watch.target.id, watch.secret, look.served, look.error)
    crashpoint("delivery.staling")
    if seen is Seen.STALE:
        await audit.append(
            tx,
            action="delivery.stale",
            actor=actor,
            subject=watch.secret,
            cert_id=watch.cert_id,
            detail={
                "target": watch.target.id,
                "generation": watch.wanted.generation,
                "served": look.served,
                "error": look.error,
            },
        )
    await _offer_again(tx, watch)


async def _offer_again(tx: Transaction, watch: Watch) -> None:
    """Offer it as other bytes, less and less often."""
    if watch.salted_for is None or watch.salted_for >= again_after(watch.salt):
        await tx.value("offer_again", watch.target.id, watch.secret, watch.salt)
        await feed.tell_secret(tx, watch.secret)


async def _watched(tx: Transaction, keys: Sequence[Row]) -> Sequence[Watch]:
    if not keys:
        return []
    ids, names = [key["target_id"] for key in keys], [key["secret"] for key in keys]
    return [_watch(row) for row in await tx.rows("watched", ids, names)]


def _watch(row: Row) -> Watch:
    before = row["before_generation"]
    return Watch(
        secret=SecretName(row["secret"]),
        target=targets.from_row(row),
        cert_id=CertificateId(row["cert_id"]),
        wanted=Wanted(
            domains=asked_for(row["domains"], (row["domain"], *row["san_domains"])),
            generation=row["generation"],
            fingerprint=row["fingerprint"],
            serial_number=row["serial_number"],
            before=None
            if before is None
            else Before(before, row["before_fingerprint"], row["before_serial_number"]),
            on_demand=row["on_demand"],
        ),
        accepted=row["accepted"],
        refused=row["refused"],
        proved=row["proved"],
        salt=row["salt"],
        salted_for=row["salted_for"],
        unchanged_for=row["unchanged_for"],
        stale_since=row["stale_since"],
        error=row["probe_error"],
        divided=row["instances"] > 1 and (row["agreed"] or 0) < row["generation"],
    )


def asked_for(wanted: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """Return for which names a certificate of these ``names`` should be served. Pure.

    Those of its Secret that it covers: a name that was added since is nobody's who has it, until there is
    another certificate, and one that was taken away may have lost its listener.
    """
    covered = [name for name in wanted if name in names or f"*.{name.partition('.')[2]}" in names]
    return tuple(covered or names)
