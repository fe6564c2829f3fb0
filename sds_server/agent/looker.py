"""What the program beside the agent serves: a fresh handshake for each name, until all show the new leaf."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sds_server.agent.pair import Pair
from sds_server.clock import Clock
from sds_server.targets.places import served
from sds_server.targets.probe import ProbeFailed, Way, covered

AT_ONCE: Final = 8
"""Handshakes at one time: a leaf may have a hundred names."""

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5

SURE_S: Final = 0.25
"""How long after the leaf was seen it must be seen again: for 100 ms nginx has both, old and new workers."""


class Sight(StrEnum):
    """What handshakes have shown."""

    WANTED = "wanted"
    """Every name shows the leaf."""

    OTHER = "other"
    """Some name shows another leaf, or none while others do."""

    NOBODY = "nobody"
    """Nobody finished a handshake for any name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen, in words for an operator where it is not what is wanted."""

    sight: Sight
    words: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What one name showed: a leaf and where, or why none."""

    leaf: str | None
    error: str = ""
    place: str = ""


def judge(looks: Mapping[str, Look], *, wanted: str, address: str) -> Seen:
    """Return what looks at every name say together."""
    for name, look in looks.items():
        if look.leaf not in {None, wanted}:
            return Seen(Sight.OTHER, f"{look.place or address} serves {look.leaf} for {name}, not {wanted}")
    failed = {name: look.error for name, look in looks.items() if look.leaf is None}
    if not failed:
        return Seen(Sight.WANTED)
    name, error = next(iter(failed.items()))
    if len(failed) == len(looks):
        return Seen(Sight.NOBODY, error)
    return Seen(Sight.OTHER, f"{address} serves nothing for {name}: {error}")


class Looker:
    """Looks at one address."""

    def __init__(self, address: Way | str, *, names: Sequence[str], within: timedelta, clock: Clock) -> None:
        """``names`` to ask for; empty: the leaf's own. ``within``: how long an old leaf may be shown."""
        self._way = Way.of(address)
        self._names = names
        self._within_s = within.total_seconds()
        self._clock = clock

    async def look(self, pair: Pair, *, once: bool, patient: bool = True) -> Seen:
        """Look until the leaf is seen, or time is up; ``once``: see what is there now.

        Not ``patient``, nobody is not waited for: it was not running before, either.
        """
        until, pause_s = self._clock.monotonic() + self._within_s, FIRST_PAUSE_S
        sure = once
        while True:
            seen = await self._look(pair)
            if seen.sight is Sight.WANTED:
                if sure:
                    return seen
                sure = True
                await self._clock.sleep(SURE_S)
                continue
            sure = once
            if once or (seen.sight is Sight.NOBODY and not patient) or self._clock.monotonic() >= until:
                return seen
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)

    async def _look(self, pair: Pair) -> Seen:
        names = self._names or [covered(name) for name in pair.names]
        turn = asyncio.Semaphore(AT_ONCE)

        async def at(name: str) -> Look:
            async with turn:
                try:
                    seen = await served(self._way, name, wanted=pair.fingerprint)
                except ProbeFailed as e:
                    return Look(None, str(e))
                return Look(seen.fingerprint, place=seen.place)

        looks = await asyncio.gather(*map(at, names))
        return judge(dict(zip(names, looks, strict=True)), wanted=pair.fingerprint, address=self._way.address)
