"""Watches of trust bundles: whether Envoys still have loaded what they took, after its roll-out is over.

As of Certificates in `watches`, by the one thing that shows a bundle: the CAs that Envoy's ``/certs`` lists
for each TLS context. A Target that has lost its bundle is stale, and is offered it again as other bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sds_server.inventory import audit, feed, secrets, targets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.voices import again_after
from sds_server.inventory.watches import AGAIN_MIN, AGAIN_SHARE, Seen
from sds_server.model import ProvedBy, SecretName, Target
from sds_server.targets.verdict import Stated


@dataclass(frozen=True, slots=True)
class BundleWatch:
    """A trust bundle at a Target that is looked at: what it should have loaded, and what it had before."""

    secret: SecretName
    target: Target
    generation: int
    content: str = field(repr=False)
    before: int | None
    before_content: str | None = field(repr=False)
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


async def of(tx: Transaction, keys: Sequence[Row]) -> Sequence[BundleWatch]:
    """Return those of these Deliveries that are a bundle's which can be looked at."""
    if not keys:
        return []
    ids, names = [key["target_id"] for key in keys], [key["secret"] for key in keys]
    return [_watch(row) for row in await tx.rows("watched_bundles", ids, names)]


async def of_keys(database: Database, keys: Sequence[Row]) -> Sequence[BundleWatch]:
    """Return the same in a transaction of its own; none is opened for none."""
    if not keys:
        return []
    async with database.transaction() as tx:
        return await of(tx, keys)


async def unproved(database: Database, secret: str, *, limit: int) -> Sequence[BundleWatch]:
    """Return the Targets of a bundle that are not proved, while nothing of it is being rolled out."""
    async with database.transaction() as tx:
        return await of(tx, await tx.rows("unproved_bundles_of", secret, limit))


async def settle(
    database: Database, watch: BundleWatch, stated: Stated | None, *, error: str | None, actor: str
) -> Seen:
    """Write what its Envoy states, and say what that came to; None: it states nothing, for this error."""
    async with database.transaction() as tx:
        if await secrets.lock_if_there(tx, watch.secret) is None:
            return Seen.OVER
        key = (watch.target.id, watch.secret)
        now = await of(tx, [{"target_id": key[0], "secret": key[1]}])
        if not now or now[0].generation != watch.generation:
            return Seen.OVER
        if now[0].target.looked_at != watch.target.looked_at:
            return Seen.OVER
        watch = now[0]
        seen = meaning(watch, stated)
        match seen:
            case Seen.PROVED | Seen.HEALED:
                await _prove(tx, watch, seen, actor=actor)
            case Seen.STALE | Seen.STILL_STALE:
                await _mark(tx, watch, seen, _words(watch, stated), actor=actor)
            case Seen.WELL if watch.error is not None:
                await tx.rows("note_looks", watch.secret, [watch.target.id], [None], [None], None)
            case Seen.UNKNOWN if error is not None:
                await tx.rows("note_looks", watch.secret, [watch.target.id], [error], [None], None)
        if seen in {Seen.STALE, Seen.STILL_STALE}:
            await tx.rows("look_again", *key, max(watch.unchanged_for / AGAIN_SHARE, AGAIN_MIN))
    return seen


def meaning(watch: BundleWatch, stated: Stated | None) -> Seen:
    """Say what a statement comes to. Pure.

    That neither version is loaded says something only of who had this one: another may not use it yet.
    """
    match stated:
        case Stated.LOADED:
            if watch.proved == watch.generation:
                return Seen.WELL
            if watch.divided:
                return Seen.UNKNOWN
            return Seen.PROVED if watch.stale_since is None else Seen.HEALED
        case Stated.BEFORE:
            had = max(watch.proved or 0, watch.accepted or 0) >= watch.generation
        case Stated.MISSING:
            had = watch.proved == watch.generation
        case _:
            return Seen.UNKNOWN
    if watch.stale_since is not None:
        return Seen.STILL_STALE
    return Seen.STALE if had else Seen.UNKNOWN


def _words(watch: BundleWatch, stated: Stated | None) -> str:
    if stated is Stated.BEFORE:
        return f"its /certs: generation {watch.before} is loaded, and generation {watch.generation} is not"
    return f"its /certs: no TLS context has the CAs of generation {watch.generation} any more"


async def _prove(tx: Transaction, watch: BundleWatch, seen: Seen, *, actor: str) -> None:
    by = [ProvedBy.CERTS]
    if not await tx.rows("prove_deliveries", watch.secret, [watch.target.id], by, watch.generation):
        return
    detail: dict[str, object] = {
        "target": watch.target.id,
        "generation": watch.generation,
        "by": ProvedBy.CERTS,
    }
    if watch.stale_since is not None:
        detail["stale_since"] = watch.stale_since.isoformat()
    action = "delivery.healed" if seen is Seen.HEALED else "delivery.proved"
    await audit.append(tx, action=action, actor=actor, subject=watch.secret, detail=detail)


async def _mark(tx: Transaction, watch: BundleWatch, seen: Seen, error: str, *, actor: str) -> None:
    await tx.value("mark_stale", watch.target.id, watch.secret, None, error)
    if seen is Seen.STALE:
        detail = {"target": watch.target.id, "generation": watch.generation, "error": error}
        await audit.append(tx, action="delivery.stale", actor=actor, subject=watch.secret, detail=detail)
    if watch.salted_for is None or watch.salted_for >= again_after(watch.salt):
        await tx.value("offer_again", watch.target.id, watch.secret, watch.salt)
        await feed.tell_secret(tx, watch.secret)


def _watch(row: Row) -> BundleWatch:
    return BundleWatch(
        secret=SecretName(row["secret"]),
        target=targets.from_row(row),
        generation=row["generation"],
        content=row["content"],
        before=row["before"],
        before_content=row["before_content"],
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
