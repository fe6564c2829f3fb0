"""A waiting room: attempts that wait for DNS are in it, and hold no worker.

A zone may take ten minutes to show a value at all of its servers. Four such waits would be all four workers,
and what could be issued at once would wait behind them.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sds_server.log import get

PLACES: Final = 64
"""Attempts of this replica that wait, or go on after they have waited: each is a few kilobytes and an idle
connection to its CA. When all places are taken, an attempt holds its worker while it waits."""

_log = get("worker")


class Visit:
    """One piece of work, which may leave its worker; it never comes back to it."""

    def __init__(self, room: "WaitingRoom") -> None:
        self._room = room
        self._waits = 0
        self.left = asyncio.Event()
        """Set when it has left its worker."""

    def begin(self) -> bool:
        """Begin to wait, and leave the worker if there is a place; say whether nothing of it waited yet.

        The names of one order wait at once: each begins and ends for itself.
        """
        self._waits += 1
        self._room.enter(self)
        return self._waits == 1

    def end(self) -> bool:
        """End a wait; say whether it was the last one."""
        self._waits -= 1
        return self._waits == 0


class WaitingRoom:
    """Runs work until it is done, or waits apart; what is apart ends by itself, or by `close`."""

    def __init__(self, *, places: int = PLACES) -> None:
        self._places = places
        self._apart: dict[Visit, asyncio.Task[None] | None] = {}

    @property
    def apart(self) -> int:
        """How many hold no worker."""
        return len(self._apart)

    async def hold(self, work: Callable[[Visit], Coroutine[Any, Any, None]]) -> None:
        """Return when the work is done, or has left; raises what it raises before it leaves."""
        visit = Visit(self)
        task, leaving = asyncio.create_task(work(visit)), asyncio.create_task(visit.left.wait())
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if visit in self._apart:
                self._apart[visit] = task
                task.add_done_callback(lambda _: self._ended(visit, task))
            elif not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if visit not in self._apart:
            task.result()

    def enter(self, visit: Visit) -> None:
        """Take a place, if one is free."""
        if visit not in self._apart and len(self._apart) < self._places:
            self._apart[visit] = None
            visit.left.set()

    async def close(self) -> None:
        """Stop what is apart; its Leases end by themselves, and its orders are resumed."""
        tasks = [task for task in self._apart.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, visit: Visit, task: asyncio.Task[None]) -> None:
        del self._apart[visit]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Nobody waits for it any more; as with a worker's, what it had is taken up again.
            _log.warning("attempt.broken", error=f"{type(error).__name__}: {error}")
