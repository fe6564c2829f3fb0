"""What systemd is told (sd_notify(3)) where it started us with ``Type=notify``; elsewhere nothing happens.

The watchdog is fed by the event loop itself: a loop that hangs is a loop that serves no stream, and systemd
starts the process anew.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

FED_IN_TIME: Final = 3
"""How often the watchdog is fed within its time: two may be late (systemd advises at least two)."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """Where systemd listens, and how long its watchdog waits; None: it does not."""

    address: str | None
    watchdog_s: float | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read what systemd put into the environment; a watchdog meant for another process is not ours."""
        usec = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = ours and usec.isdecimal() and int(usec) > 0
        return cls(environment.get("NOTIFY_SOCKET") or None, int(usec) / 1e6 if watched else None)

    def ready(self) -> None:
        """Say that start-up is over."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self._tell("STOPPING=1")

    async def feed_watchdog(self) -> None:
        """Say again and again that the event loop turns, until cancelled."""
        while self.address is not None and self.watchdog_s is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / FED_IN_TIME)

    def _tell(self, state: str) -> None:
        if self.address is None:
            return
        # A leading @ is the abstract namespace, which has a NUL there.
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(name)
            channel.send(state.encode())
