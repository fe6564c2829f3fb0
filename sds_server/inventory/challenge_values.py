"""What certvoy has, or may have, in DNS: written before it is published, so that no crash leaves it there."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sds_server.crashpoint import crashpoint
from sds_server.inventory.database import Database
from sds_server.model import RotationId

DUE_AFTER: Final = timedelta(hours=1)
"""When a value is due that nobody said to be over: an attempt does not last so long."""

HELD_POLL_S: Final = 0.5


class RotationValues:
    """The engine's ValueLedger of one Rotation: what it leaves behind when killed is found by its id."""

    def __init__(
        self,
        database: Database,
        rotation: RotationId,
        issuer: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``issuer``: whose provider publishes it, and removes it."""
        self._database = database
        self._rotation = rotation
        self._issuer = issuer
        self._sleep = sleep

    async def put(self, name: str, value: str) -> None:
        """Note a value; waits while somebody removes the same, who would remove ours."""
        while not await self._put(name, value):
            await self._sleep(HELD_POLL_S)
        crashpoint("value.saved")

    async def delete(self, name: str, value: str) -> None:
        """Forget a value that is gone from DNS."""
        crashpoint("value.removed")
        async with self._database.transaction() as tx:
            await tx.rows("delete_value", name, value)

    async def _put(self, name: str, value: str) -> bool:
        async with self._database.transaction() as tx:
            return bool(await tx.value("put_value", name, value, self._issuer, self._rotation, DUE_AFTER))


@dataclass(frozen=True, slots=True)
class DueValue:
    """A value that nobody needs any more, held by whoever removes it."""

    name: str
    value: str
    issuer: str
    held_until: datetime


async def take_due(
    database: Database, issuers: Sequence[str], *, hold_for: timedelta, limit: int
) -> Sequence[DueValue]:
    """Hold the values of these issuers that are due, the oldest first; what another holds is passed over."""
    async with database.transaction() as tx:
        rows = await tx.rows("take_due_values", list(issuers), hold_for, limit)
    return [DueValue(**row) for row in rows]


async def removed(database: Database, due: DueValue) -> None:
    """Forget a value that was held; one that is wanted again meanwhile is not."""
    async with database.transaction() as tx:
        await tx.rows("delete_held_value", due.name, due.value, due.held_until)


async def kept(database: Database, due: DueValue, *, pause: timedelta) -> None:
    """Let a value go that could not be removed, to be tried again after the pause."""
    async with database.transaction() as tx:
        await tx.rows("keep_held_value", due.name, due.value, due.held_until, pause)


async def give_up(database: Database, *, older_than: timedelta) -> Sequence[tuple[str, str]]:
    """Forget what could not be removed for so long; returns (name, issuer) of each."""
    async with database.transaction() as tx:
        rows = await tx.rows("give_up_values", older_than)
    return [(row["name"], row["issuer"]) for row in rows]
