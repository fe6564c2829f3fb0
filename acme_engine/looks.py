"""When to look again at what a CA has under way, where it does not say by Retry-After.

A CA validates in ten milliseconds or in three seconds, and needs much the same the next time. So the first
look comes when it was done before: a quick CA is not waited for, and a slow one is not asked in vain.
"""

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

SOONEST_S: Final = 0.005
LATEST_S: Final = 2.0
"""The bounds of the first look; of a CA that nothing is known of yet it is the soonest."""

NEXT_S: Final = (0.1, 0.4, 1.0, 2.0, 5.0)
"""Between the looks after the first; the last one repeats."""

EARLIER: Final = 0.95
"""Done at the first look, it may have been done before: the next time that comes so much earlier."""


@dataclass(slots=True)
class Looks:
    """Of one CA, for one kind of waiting: until a name is validated, say."""

    first_s: float = SOONEST_S

    def pause_s(self, looked: int) -> float:
        """Return how long to wait in seconds, having ``looked`` so often."""
        if looked == 0:
            return self.first_s
        return max(NEXT_S[min(looked, len(NEXT_S)) - 1], self.first_s / 2)

    def done(self, after_s: float, *, not_before_s: float | None) -> None:
        """Learn that it was done at the look after so long, and not at the one before, if there was one."""
        if not_before_s is None:
            self.first_s = max(SOONEST_S, self.first_s * EARLIER)
        else:
            self.first_s = min(LATEST_S, math.sqrt(after_s * not_before_s))


@dataclass(slots=True)
class Wait:
    """One wait for a CA, look by look; what is learnt by it goes into ``looks``."""

    looks: Looks
    _at_s: list[float] = field(default_factory=list)
    _told: bool = False

    def pause_s(self, retry_after: timedelta | None) -> float:
        """Return how long to wait before the next look, in seconds: never less than the CA says."""
        pause_s = self.looks.pause_s(len(self._at_s))
        if retry_after is not None and retry_after.total_seconds() > pause_s:
            pause_s, self._told = retry_after.total_seconds(), True
        self._at_s.append(pause_s + (self._at_s[-1] if self._at_s else 0.0))
        return pause_s

    def done(self) -> None:
        """Learn from it, where the time was ours to choose, and begin the next."""
        if self._at_s and not self._told:
            *_, before_s, after_s = [None, *self._at_s]
            self.looks.done(after_s, not_before_s=before_s)
        self._at_s, self._told = [], False


@dataclass(frozen=True, slots=True)
class Habits:
    """How long a CA has us wait."""

    validation: Looks = field(default_factory=Looks)
    issuance: Looks = field(default_factory=Looks)
