"""Steady clients: fresh TLS handshakes with every target, the whole time. They are the only judge.

Each verifies chain, names and dates against the CA's root alone, resumes nothing, and notes the leaf.
"""

import asyncio
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.chaos.targets import HOST, Target

PACE_S = 0.05
"""Between two handshakes of a client: twenty a second and target, so that two cores are left for the rest."""

HANDSHAKE_S = 30.0
"""Generous: a machine that is busy is no failure. One that is frozen is excused before."""


class Clients:
    """One client a target."""

    def __init__(self, root: Path, targets: Iterable[Target]) -> None:
        self._context = ssl.create_default_context(cafile=str(root))
        self._targets = list(targets)
        self._tasks: list[asyncio.Task[None]] = []
        self.done = 0
        self.excused = 0

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._visit(target)) for target in self._targets]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def failures(self) -> list[str]:
        """What went wrong at targets of which something was expected."""
        return [failure for target in self._targets for failure in target.failures]

    async def look(self, target: Target) -> None:
        """Handshake once with each name, and note what is seen.

        Raises:
            OSError: no connection, or a certificate that does not verify.
        """
        for domain in target.domains:
            began = time.time()
            _, writer = await asyncio.open_connection(
                HOST,
                target.port,
                ssl=self._context,
                server_hostname=domain,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
            leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            target.saw(leaf, began)
            self.done += 1

    async def _visit(self, target: Target) -> None:
        while True:
            excused, began = target.excused, time.time()
            try:
                await self.look(target)
            except OSError as e:
                if excused or target.excused:
                    self.excused += 1
                else:
                    target.failures.append(f"{target.name} at {time.time():.3f}: {e!r}")
            else:
                target.seen_well(began)
            await asyncio.sleep(PACE_S)
