"""A step that is taken for ever: at once when woken, else after a pause.

A failure is logged and ends nothing.
What each loop does is repeatable, so whatever broke (database, CA, KMS) is simply tried again: that is how
serving goes on and everything resumes by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from sds_server.errors import CertvoyError
from sds_server.log import get

LONGEST_PAUSE: Final = timedelta(seconds=3)
"""Between tries of a step that fails. With the 5 s that a try may take which began a moment too early,
everything is back within 10 s of healing."""

TOLD_EVERY: Final = 512
"""Failures in a row, once they are so many: half an hour's."""

_log = get("loop")


class Loop:
    """Calls ``step`` for ever. `wake` may be called at any time from the same event loop."""

    def __init__(self, name: str, step: Callable[[], Awaitable[object]], *, every: timedelta) -> None:
        self.name = name
        self._step = step
        self._every = every
        self._woken = asyncio.Event()
        self.failures = 0
        self.failed = 0
        """How often in all; ``failures`` is how often in a row."""
        self.error = ""
        self.on_success: Callable[[], None] = lambda: None

    def wake(self) -> None:
        """Take the next step now."""
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            self._woken.clear()
            try:
                await self._step()
            except CertvoyError as e:
                self._failed(e)
            except Exception as e:  # noqa: BLE001 - a bug in one loop must not stop the others from serving
                if self._failed(e):
                    _log.exception("loop.crashed", loop=self.name)
            else:
                self.succeeded()
            await self._pause()

    def succeeded(self) -> None:
        """Note that all that was to be done is done; a step that does not end says so itself."""
        if self.failures:
            _log.info("loop.recovered", loop=self.name, failures=self.failures)
        self.failures = 0
        self.on_success()

    def _failed(self, error: Exception) -> bool:
        """Take it down, and say whether it is worth a line: an outage of a night is not 10,000 of them."""
        self.failures += 1
        self.failed += 1
        news = _is_news(self.failures) or str(error) != self.error
        self.error = str(error)
        if news:
            _log.warning("loop.failed", loop=self.name, failures=self.failures, error=str(error))
        return news

    async def _pause(self) -> None:
        if self.failures:
            await asyncio.sleep(min(self._every * 2 ** min(self.failures, 8), LONGEST_PAUSE).total_seconds())
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._every.total_seconds()):
                await self._woken.wait()


def _is_news(failures: int) -> bool:
    """Tell of the first, second, fourth... failure in a row, and of every `TOLD_EVERY`th."""
    return failures & (failures - 1) == 0 or failures % TOLD_EVERY == 0
