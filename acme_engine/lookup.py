"""How responders read their store for the Internet: one look-up a token at a time, and few in vain."""

import asyncio
from collections import OrderedDict

from acme_engine.solver import TokenReader

MAX_KNOWN_UNKNOWN = 1024
UNKNOWN_TTL_S = 1.0
"""A token that is not there may be there soon: presented on another replica."""

MISSES_PER_S = 50.0
MISS_BURST = 200.0
"""Look-ups that find nothing, and so can be had by guessing; the ones that find something cost nothing."""


class Lookup:
    """Reads one store; made in a running loop."""

    def __init__(self, store: TokenReader) -> None:
        self._store = store
        self._running: dict[str, asyncio.Task[str | None]] = {}
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._misses_left = MISS_BURST
        self._filled_at = 0.0

    def get(self, token: str) -> asyncio.Future[str | None]:
        """Return the look-up to wait for; cancelling the wait leaves it running for the others."""
        task = self._running.get(token)
        if task is None:
            task = asyncio.create_task(self._find(token))
            self._running[token] = task
            task.add_done_callback(lambda done: self._done(token, done))
        return asyncio.shield(task)

    def close(self) -> None:
        """End the look-ups under way."""
        for task in self._running.values():
            task.cancel()

    def _done(self, token: str, task: asyncio.Task[str | None]) -> None:
        del self._running[token]
        if not task.cancelled():
            task.exception()  # seen: whoever asked may be gone

    async def _find(self, token: str) -> str | None:
        now = asyncio.get_running_loop().time()
        if self._unknown.get(token, 0.0) > now:
            return None
        self._misses_left = min(MISS_BURST, self._misses_left + (now - self._filled_at) * MISSES_PER_S)
        self._filled_at = now
        if self._misses_left < 1:
            return None
        self._misses_left -= 1
        found = await self._store.get(token)
        if found is not None:
            self._misses_left += 1
            return found
        self._unknown[token] = asyncio.get_running_loop().time() + UNKNOWN_TTL_S
        self._unknown.move_to_end(token)
        if len(self._unknown) > MAX_KNOWN_UNKNOWN:
            self._unknown.popitem(last=False)
        return None
