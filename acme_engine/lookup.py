"""How responders read their store for the Internet, where anybody may guess tokens, as fast as they like.

A store that can be asked for many tokens at once is asked one question at a time, for all that is wanted by
then: a flood makes questions longer, and keeps no CA waiting. Any other is asked in vain so often and no
more; in a flood it answers a CA only by chance.
"""

import asyncio
from collections import OrderedDict
from itertools import islice

from acme_engine.solver import BatchReader, TokenReader

MAX_KNOWN_UNKNOWN = 1024
UNKNOWN_TTL_S = 1.0
"""A token that is not there may be there soon: presented on another replica."""

MISSES_PER_S = 50.0
MISS_BURST = 200.0
"""Look-ups that find nothing, and so can be had by guessing; the ones that find something cost nothing."""

PAUSE_S = 0.02
"""Between two questions, where one had tokens that are not there: 50 of those a second at most."""

BATCH_MAX = 1000
WANTED_MAX = 10_000
"""What more ask for meanwhile is refused; a batch takes milliseconds."""

ANSWER_WITHIN_S = 4.0
"""A CA waits for 5 s or 10: what is not answered by then is answered that it cannot be."""


class Lookup:
    """Reads one store; made in a running loop."""

    def __init__(self, store: TokenReader) -> None:
        self._store = store
        self._batches = store if isinstance(store, BatchReader) else None
        self._waiting: dict[str, list[asyncio.Future[str | None]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._misses_left = MISS_BURST
        self._filled_at = 0.0
        self._wanted: dict[str, asyncio.Future[str | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    def get(self, token: str) -> asyncio.Future[str | None]:
        """Return the look-up to wait for; cancelling the wait leaves it running for the others."""
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if token in self._waiting:
            self._waiting[token].append(answer)
        else:
            self._waiting[token] = [answer]
            task = asyncio.create_task(self._look_up(token))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return answer

    def close(self) -> None:
        """End the look-ups under way."""
        if self._asking is not None:
            self._asking.cancel()
        for task in self._running:
            task.cancel()

    async def _look_up(self, token: str) -> None:
        """Answer all who wait for a token by then; who has gone has cancelled its wait."""
        found: str | None = None
        error: Exception | None = None
        try:
            found = await self._find(token)
        except Exception as e:  # noqa: BLE001 - whoever asked is told
            error = e
        finally:
            waiting = self._waiting.pop(token)
        for answer in waiting:
            if answer.done():
                continue
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

    async def _find(self, token: str) -> str | None:
        now = asyncio.get_running_loop().time()
        if self._unknown.get(token, 0.0) > now:
            return None
        if self._batches is not None:
            return self._remember(token, await self._in_a_batch(token, self._batches))
        self._misses_left = min(MISS_BURST, self._misses_left + (now - self._filled_at) * MISSES_PER_S)
        self._filled_at = now
        if self._misses_left < 1:
            return None
        self._misses_left -= 1
        found = await self._store.get(token)
        if found is not None:
            self._misses_left += 1
        return self._remember(token, found)

    def _remember(self, token: str, found: str | None) -> str | None:
        if found is not None:
            return found
        self._unknown[token] = asyncio.get_running_loop().time() + UNKNOWN_TTL_S
        self._unknown.move_to_end(token)
        if len(self._unknown) > MAX_KNOWN_UNKNOWN:
            self._unknown.popitem(last=False)
        return None

    async def _in_a_batch(self, token: str, store: BatchReader) -> str | None:
        if len(self._wanted) >= WANTED_MAX:
            raise OverflowError("too many ask at once")
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._wanted[token] = answer
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(store))
        return await answer

    async def _ask(self, store: BatchReader) -> None:
        """Ask for what is wanted, the oldest first, until nothing is."""
        while self._wanted:
            batch = {token: self._wanted.pop(token) for token in [*islice(self._wanted, BATCH_MAX)]}
            missed = True
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    found = await store.get_many([*batch])
            except Exception as e:  # noqa: BLE001 - whoever asked is told
                for answer in batch.values():
                    if not answer.done():
                        answer.set_exception(e)
            else:
                missed = len(found) < len(batch)
                for token, answer in batch.items():
                    if not answer.done():
                        answer.set_result(found.get(token))
            if missed:
                await asyncio.sleep(PAUSE_S)
