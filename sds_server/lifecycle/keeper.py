"""The keeper: has work done while its Lease is kept, and stops it in the middle when the Lease is lost."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar

from sds_server.clock import Clock
from sds_server.errors import CertvoyError, StaleLease
from sds_server.inventory import rotations
from sds_server.inventory.database import Database
from sds_server.log import get
from sds_server.model import Lease

EXTENSIONS: Final = 3
"""How often a Lease is extended within its life, so that one lost write does not end it."""

T = TypeVar("T")

_log = get("worker")


@dataclass(frozen=True, slots=True)
class _Kept:
    look: asyncio.Event = field(default_factory=asyncio.Event)
    """Extend it at once, and so learn whether it still is ours."""

    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever extends or ends it: the other waits."""


class Keeper:
    """Keeps the Leases of one replica's workers."""

    def __init__(self, *, database: Database, lease_for: timedelta, clock: Clock) -> None:
        self._database = database
        self._lease_for = lease_for
        self._clock = clock
        self._kept: dict[Lease, _Kept] = {}

    async def while_leased(self, lease: Lease, work: Coroutine[Any, Any, T]) -> T:
        """Do the work while the Lease is kept; stop in the middle of it when the Lease is lost.

        Raises:
            StaleLease: it was lost.
        """
        kept = self._kept[lease] = _Kept()
        working, keeping = asyncio.create_task(work), asyncio.create_task(self._keep(lease, kept))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else keeping.result()
        finally:
            self._kept.pop(lease, None)
            for task in (working, keeping):
                task.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    @asynccontextmanager
    async def ending(self, lease: Lease) -> AsyncIterator[None]:
        """Within it the work ends its Lease itself, which else would be taken for lost before it is heard of.

        The write that ends a Lease tells everybody of its Secret, and us before its own answer is read.
        """
        async with self._kept[lease].writing:
            yield

    def told(self, secret: str) -> None:
        """Look at once: the Secret was changed, and it may be that nobody wants what is ordered for it."""
        for lease, kept in self._kept.items():
            if lease.secret == secret:
                kept.look.set()

    def missed(self) -> None:
        """Look at all: something may have happened that nobody was told of."""
        for kept in self._kept.values():
            kept.look.set()

    async def _keep(self, lease: Lease, kept: _Kept) -> NoReturn:
        """Extend the Lease, until it is lost."""
        while True:
            await self._pause(kept.look)
            kept.look.clear()
            try:
                async with kept.writing:
                    await rotations.extend(self._database, lease, lease_for=self._lease_for)
            except StaleLease:
                raise
            except CertvoyError as e:
                _log.warning("lease.unextended", secret=lease.secret, error=e.message)

    async def _pause(self, look: asyncio.Event) -> None:
        pauses = [
            asyncio.ensure_future(self._clock.sleep(self._lease_for.total_seconds() / EXTENSIONS)),
            asyncio.create_task(look.wait()),
        ]
        try:
            await asyncio.wait(pauses, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pause in pauses:
                pause.cancel()
