"""The keeper: has work done while its Lease is kept, and stops it in the middle when the Lease is lost."""

import asyncio
from collections.abc import Coroutine
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


class Keeper:
    """Keeps the Leases of one replica's workers."""

    def __init__(self, *, database: Database, lease_for: timedelta, clock: Clock) -> None:
        self._database = database
        self._lease_for = lease_for
        self._clock = clock
        self._looks: dict[Lease, asyncio.Event] = {}

    async def while_leased(self, lease: Lease, work: Coroutine[Any, Any, T]) -> T:
        """Do the work while the Lease is kept; stop in the middle of it when the Lease is lost.

        Raises:
            StaleLease: it was lost.
        """
        look = self._looks[lease] = asyncio.Event()
        working, keeping = asyncio.create_task(work), asyncio.create_task(self._keep(lease, look))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else keeping.result()
        finally:
            self._looks.pop(lease, None)
            for task in (working, keeping):
                task.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    def told(self, secret: str) -> None:
        """Look at once: the Secret was changed, and it may be that nobody wants what is ordered for it."""
        for lease, look in self._looks.items():
            if lease.secret == secret:
                look.set()

    def missed(self) -> None:
        """Look at all: something may have happened that nobody was told of."""
        for look in self._looks.values():
            look.set()

    async def _keep(self, lease: Lease, look: asyncio.Event) -> NoReturn:
        """Extend the Lease, until it is lost."""
        while True:
            await self._pause(look)
            look.clear()
            try:
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
