"""Time as an argument: what needs a clock takes one, so that tests can turn it. And in words.

Leases and due dates are decided by the database's clock (`certvoy_now()` in schema.sql), never by this one.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Final, Protocol

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def span(seconds: float) -> str:
    """Return a length of time in its largest whole unit."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return "0 s"


class Clock(Protocol):
    """Wall time for dates, monotonic time for durations, and sleeping."""

    def now(self) -> datetime:
        """Return the wall time, aware and in UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait; a turned clock returns when it is turned past the moment."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall time, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
