"""What an outage looks like from outside: handshakes at a proxy, the API, and health, asked all the time."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.control_plane import ControlPlane
from tests.support.edge import Edge

LONG = bool(os.environ.get("CERTVOY_LONG"))
"""Outages of the length that they have in the world, and work by the hundred; else seconds, and a few."""

HEALED_WITHIN_S = 10.0
"""The promise."""

SLOW_MACHINE_S = 30.0
"""What a busy machine may add to it."""

HEALTH_WITHIN_S = 1.0
API_WITHIN_S = 10.0
"""A connect, or a transaction that the outage met in the middle of its work."""


def tell(what: str, **figures: object) -> None:
    """Print what was measured; pytest shows it with -s, or when the test fails."""
    print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))


@dataclass
class Watch:
    """What was seen so far."""

    handshakes: int = 0
    unserved: int = 0
    leaves: set[str] = field(default_factory=set)
    health_s: list[float] = field(default_factory=list)
    api_s: list[float] = field(default_factory=list)
    unhealthy: list[int] = field(default_factory=list)
    states: set[str] = field(default_factory=set)

    def assert_served(self) -> None:
        """Whoever asked was answered, in time."""
        assert self.handshakes > 0
        assert 0 == self.unserved
        assert [] == self.unhealthy
        assert max(self.health_s) < HEALTH_WITHIN_S + SLOW_MACHINE_S
        assert max(self.api_s, default=0.0) < API_WITHIN_S + SLOW_MACHINE_S

    def figures(self) -> dict[str, Any]:
        return {
            "handshakes": self.handshakes,
            "failed": self.unserved,
            "slowest health": f"{max(self.health_s, default=0):.2f} s",
            "slowest API": f"{max(self.api_s, default=0):.2f} s",
        }


@asynccontextmanager
async def watching(plane: ControlPlane, edge: Edge) -> AsyncIterator[Watch]:
    """Ask all the time, for the length of the block."""
    watch = Watch()

    async def handshakes() -> None:
        while True:
            leaf = await edge.served()
            watch.handshakes += 1
            if leaf is None:
                watch.unserved += 1
            else:
                watch.leaves.add(leaf)
            await asyncio.sleep(0.1)

    async def health() -> None:
        while True:
            for path in ("/healthz", "/readyz"):
                began = time.monotonic()
                status, document = await ask(plane, path)
                watch.health_s.append(time.monotonic() - began)
                if status != 200:
                    watch.unhealthy.append(status)
                elif path == "/readyz":
                    watch.states.add(document["status"])
            await asyncio.sleep(0.2)

    async def api() -> None:
        while True:
            began = time.monotonic()
            await ask(plane, "/v1/secrets/www")
            watch.api_s.append(time.monotonic() - began)
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(work()) for work in (handshakes, health, api)]
    try:
        yield watch
        while watch.handshakes < 2:
            await asyncio.sleep(0.05)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if not isinstance(result, asyncio.CancelledError):
            raise AssertionError("a watcher ended") from result


async def ask(plane: ControlPlane, path: str) -> tuple[int, Any]:
    """Ask the API over its Unix socket."""
    socket = f"{plane.settings['state_dir']}/admin.sock"
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket), timeout=timeout) as http,
        http.get(f"http://certvoy{path}") as response,
    ):
        return response.status, await response.json()


async def scrape(plane: ControlPlane) -> str:
    """Ask the same for its metrics, as Prometheus reads them."""
    socket = f"{plane.settings['state_dir']}/admin.sock"
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as http,
        http.get("http://certvoy/metrics") as response,
    ):
        return await response.text()


async def state(plane: ControlPlane) -> str:
    """What /readyz says: ok, degraded or failed."""
    _, document = await ask(plane, "/readyz")
    return str(document["status"])
