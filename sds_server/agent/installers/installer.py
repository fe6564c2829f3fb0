"""What brings a pair into a running program: one Protocol, an implementation for each kind of program."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

from sds_server.agent.pair import Pair
from sds_server.model import TargetKind
from sds_server.xds.scrub import scrub

CHAIN: Final = "fullchain.pem"
KEY: Final = "key.pem"
COMBINED: Final = "combined.pem"

PROGRAM_TIMEOUT: Final = timedelta(seconds=30)
"""How long one call of a program may take, unless the configuration says otherwise."""


class Rejected(Exception):
    """The program does not take the pair, in its own words: one line, scrubbed."""

    def __init__(self, words: str) -> None:
        super().__init__(scrub(" ".join(words.split())) or "it said nothing")


class NotRunning(Exception):
    """There is no program to load it: it reads the files when it starts. No fault of the pair's."""

    def __init__(self, words: str) -> None:
        super().__init__(scrub(" ".join(words.split())) or "nobody runs")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a pair lies. The paths are the same for each pair: what they lead to is replaced whole."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """The chain, leaf first."""
        return self.directory / CHAIN

    @property
    def key(self) -> Path:
        """The private key."""
        return self.directory / KEY

    @property
    def combined(self) -> Path:
        """Chain and key in one."""
        return self.directory / COMBINED


class Installer(Protocol):
    """Brings a pair that has passed the content gate, and lies in its place, into one program.

    Both may be called again for the same pair, also after the agent was killed in the middle of them. Every
    wait in them is bounded. Neither changes the files; what goes wrong raises `Rejected`, and nothing else.
    """

    @property
    def kind(self) -> TargetKind:
        """Which program it is."""

    async def check(self, pair: Pair, at: Placed) -> None:
        """Let the program judge the files that lie in ``at``, before what runs reads them, as far as it can.

        Raises:
            Rejected: it would not take them.
        """

    async def load(self, pair: Pair, at: Placed) -> None:
        """Make what runs serve the pair that lies in ``at``; also how the one before is gone back to.

        Raises:
            Rejected: it did not take it. What it serves is unknown until the one before is loaded.
            NotRunning: nobody is there to take it.
        """
