"""Requests to one CA, so many a second at most: one after the other where they come faster."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Pace:
    """Shared by all who ask one CA from this process, which counts them by address."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._apart_s = 1 / per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    async def turn(self) -> None:
        """Return when one more may be sent; turns are given in the order of asking."""
        now = self._clock()
        at = max(self._free_at, now)
        self._free_at = at + self._apart_s
        if at > now:
            await self._sleep(at - now)
