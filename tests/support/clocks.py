"""Clocks that tests turn: nothing waits for real."""

import asyncio
from datetime import UTC, datetime, timedelta


class TurnedClock:
    """Stands still until it is turned; who sleeps wakes when it is turned past the moment."""

    def __init__(self, now: datetime | None = None) -> None:
        self._start = now or datetime.now(UTC)
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        wakened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._elapsed_s + seconds, wakened))
        await wakened

    @property
    def sleeping(self) -> int:
        """How many sleep now."""
        return sum(not wakened.done() for _, wakened in self._sleepers)

    def turn(self, forward: timedelta) -> None:
        self._elapsed_s += forward.total_seconds()
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._elapsed_s]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._elapsed_s]
        for _, wakened in due:
            if not wakened.done():
                wakened.set_result(None)


class HastyClock(TurnedClock):
    """Turns itself by as much as anybody sleeps, and keeps what was slept."""

    def __init__(self, now: datetime | None = None) -> None:
        super().__init__(now)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.turn(timedelta(seconds=seconds))
        await asyncio.sleep(0)
