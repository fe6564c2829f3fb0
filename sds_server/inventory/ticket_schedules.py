"""Ticket schedules: which Secrets' session ticket keys certvoy makes, how often, and how many it keeps."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict
from sds_server.inventory import audit, freezes, payloads, secrets
from sds_server.inventory.database import Database
from sds_server.inventory.payloads import New, Stored
from sds_server.model import Kind, SecretName

LEASE: Final = timedelta(seconds=60)
"""For so long a replica that died keeps others from making the next key."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A new key every so often, ``keep`` in all; the next one is due at ``next_at``."""

    rotate_every: timedelta
    keep: int
    next_at: datetime


async def put(
    database: Database, name: SecretName, *, rotate_every: timedelta, keep: int, actor: str
) -> bool:
    """Have certvoy make the Secret's ticket keys; where there is none of that name one is created.

    Returns whether anything changed. A new one is due at once.

    Raises:
        Conflict: the name has another kind for ever.
    """
    async with database.transaction() as tx:
        await payloads.declare_in(tx, name, Kind.SESSION_TICKET_KEYS, actor=actor)
        if await tx.value("put_ticket_schedule", name, rotate_every, keep) is None:
            return False
        detail = {"rotate_every_s": rotate_every.total_seconds(), "keep": keep}
        await audit.append(tx, action="tickets.scheduled", actor=actor, subject=name, detail=detail)
    return True


async def get(database: Database, name: str) -> Schedule | None:
    """Return the Secret's schedule; None: people bring its keys."""
    async with database.transaction() as tx:
        row = await tx.row("ticket_schedule", name)
    return None if row is None else Schedule(row["rotate_every"], row["keep"], row["next_at"])


async def hasten(database: Database, name: str, *, actor: str) -> None:
    """Have the next key made now.

    Raises:
        NotFound: there is no such Secret.
        Conflict: its keys are not made here, or it is frozen.
    """
    async with database.transaction() as tx:
        secret = await secrets.lock(tx, name)
        await freezes.check_in(tx, name)
        if await tx.value("hasten_ticket_schedule", name) is None:
            raise Conflict(
                f"secret {name}: it is a {secret.kind}, of which certvoy makes no new version by itself",
                hint="bring the next one: `certvoy trust`, `certvoy tickets` or `certvoy generic`",
            )
        await audit.append(tx, action="tickets.hastened", actor=actor, subject=name)


async def claim(database: Database) -> tuple[SecretName, int] | None:
    """Return a Secret whose next key is due and how many are kept; nobody else gets it for `LEASE`."""
    async with database.transaction() as tx:
        row = await tx.row("claim_ticket_schedule", LEASE)
    return None if row is None else (SecretName(row["secret"]), row["keep"])


async def rotated(database: Database, new: New, *, actor: str) -> Stored:
    """Store the keys that were made, and put the next ones off, in one transaction.

    Raises:
        Conflict: the keys were changed since they were read, by another replica say; or the Secret is frozen,
            or removed.
    """
    async with database.transaction() as tx:
        await secrets.lock_if_there(tx, new.secret)
        if await tx.row("ticket_schedule", new.secret) is None:  # it goes with its Secret
            raise Conflict(f"secret {new.secret}: it was removed meanwhile", hint="nothing to do")
        stored = await payloads.store_in(tx, new, actor=actor)
        await tx.rows("ticket_rotated", new.secret, LEASE)
        crashpoint("tickets.rotating")
    return stored
