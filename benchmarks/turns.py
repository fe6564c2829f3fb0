"""How late an event loop is, without a clock that ticks: waking up for one costs more than an order does.

Whatever falls due waits for the end of the loop's turn, and only for that. So the turns themselves say how
late a timer is that falls due at any moment: in a turn of 5 ms, by 3 ms and more in two moments of five.
"""

import selectors
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

PERCENT: Final = 0.01


class Turns(selectors.DefaultSelector):
    """A selector for `asyncio.SelectorEventLoop` that knows for how long nobody asked it."""

    def __init__(self) -> None:
        super().__init__()
        self._returned, self._cpu = time.perf_counter(), time.thread_time()
        self._busy: list[float] = []
        self._worked: list[float] = []
        self._begun = self._returned

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, as ever; between two waits is a turn."""
        self._busy.append(time.perf_counter() - self._returned)
        self._worked.append(time.thread_time() - self._cpu)
        try:
            return super().select(timeout)
        finally:
            self._returned, self._cpu = time.perf_counter(), time.thread_time()

    def begin(self) -> None:
        """Forget what was."""
        self._busy.clear()
        self._worked.clear()
        self._begun = time.perf_counter()

    def late_s(self) -> tuple[float, float]:
        """Return how late a timer was since `begin`, at the 99th percentile, in seconds.

        The second is without what others took of the machine meanwhile: how late by our own CPU alone.
        """
        elapsed = time.perf_counter() - self._begun
        return late_s(self._busy, elapsed), late_s(self._worked, elapsed)


def late_s(turns: Sequence[float], elapsed: float) -> float:
    """Return what a timer is late that is due at any moment of ``elapsed``, at the 99th percentile.

    Late by more than x are those due in the first t - x of a turn t: the sum of these is to be 1 % of all.
    """
    wanted, known = elapsed * PERCENT, 0.0
    longest = sorted(turns, reverse=True)
    for count, (turn, shorter) in enumerate(pairwise([*longest, 0.0]), 1):
        known += turn
        if known - count * shorter >= wanted:
            return (known - wanted) / count
    return 0.0
