"""Requests to one CA, so many a second at most: one after the other where they come faster.

CAs allow fewer of some than of all together: Let's Encrypt takes 250 requests a second from one address, and
10 revocations.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping


class Pace:
    """Shared by all who ask one CA from this process, which counts them by address."""

    def __init__(
        self,
        per_second: float,
        *,
        of: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """``of``: a lower rate, of one resource by its name in the directory (RFC 8555 section 7.1.1)."""
        self._apart_s = 1 / per_second
        self._apart_of_s = {resource: 1 / rate for resource, rate in (of or {}).items()}
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._free_of_at = dict.fromkeys(self._apart_of_s, self._free_at)

    async def turn(self, resource: str | None = None) -> None:
        """Return when one more may be sent; turns are given in the order of asking.

        Who waits for a resource's turn lets others pass.
        """
        now = self._clock()
        at = max(self._free_at, now)
        self._free_at = at + self._apart_s
        if resource in self._apart_of_s:
            at = max(self._free_of_at[resource], at)
            self._free_of_at[resource] = at + self._apart_of_s[resource]
        if at > now:
            await self._sleep(at - now)
