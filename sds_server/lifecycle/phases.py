"""Phases: how long each part of an order took, by the engine's steps. Pure but for the clock.

| the step               | ends          | begins        |
|------------------------|---------------|---------------|
| (a new order)          |               | order         |
| order.created          | order         | challenge     |
| order.resumed          |               |               |
| challenge.answered     | challenge     | authorization |
| order.finalizing       | authorization | finalize      |
| order.valid            | finalize      | download      |
| certificate.downloaded | download      |               |

Only what was seen from its beginning to its end counts: a phase in which an attempt fails, or that a crash
cut in two, would say nothing of the CA.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from sds_server.clock import Clock


class Phase(StrEnum):
    """A part of an order. ``challenge`` is ours, DNS included; the others are the CA's."""

    ORDER = "order"
    CHALLENGE = "challenge"
    AUTHORIZATION = "authorization"
    FINALIZE = "finalize"
    DOWNLOAD = "download"


_TURNS: Final[Mapping[str, tuple[Phase, Phase | None]]] = {
    "order.created": (Phase.ORDER, Phase.CHALLENGE),
    "challenge.answered": (Phase.CHALLENGE, Phase.AUTHORIZATION),
    "order.finalizing": (Phase.AUTHORIZATION, Phase.FINALIZE),
    "order.valid": (Phase.FINALIZE, Phase.DOWNLOAD),
    "certificate.downloaded": (Phase.DOWNLOAD, None),
}


class Phases:
    """The phases of one attempt; ``new``: it begins with a newOrder."""

    def __init__(self, clock: Clock, *, new: bool) -> None:
        self._clock = clock
        self._open = Phase.ORDER if new else None
        self._since = clock.monotonic()

    def stepped(self, name: str) -> tuple[Phase, float] | None:
        """Take a step; return the phase that it ends and how many seconds that took."""
        turn = _TURNS.get(name)
        # Each name of an order is answered, and an order that was not ready is finalized again: the first
        # one begins the phase.
        if turn is None or turn[1] is self._open:
            return None
        ends, begins = turn
        before, since = self._open, self._since
        self._open, self._since = begins, self._clock.monotonic()
        # The CA may know all names already: then nothing was proved.
        return (ends, self._since - since) if before is ends else None
