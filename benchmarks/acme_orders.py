"""What an order costs its client, at a real Pebble: CPU, orders a second, and how long the event loop waits.

Beside it, in the same run and at the same CA: the `acme` library's own client, synchronous; and certbot, a
process an order. newOrder is asked one at a time: Pebble, in every version, deadlocks otherwise. lego is
not compared yet.
"""

import asyncio
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from statistics import quantiles
from typing import Final

from acme_engine import Client, Http01Responder, Http01Solver, KeyType, Order, keys, obtain
from benchmarks.library_client import LibraryClient
from benchmarks.report import Figures, Goals
from tests.support import debian, pebble
from tests.support.acme import MemoryJournal, Tokens

ORDERS: Final = 64
AT_ONCE: Final = (1, 8, 32)
CERTBOT_ORDERS: Final = 3
LIBRARY_ORDERS: Final = 16
TICK_S: Final = 0.001
HOST: Final = "127.0.0.1"

LAG: Final = "event loop late, p99, ms, 32 at once"
GOALS: Final[Goals] = {
    **{f"CPU ms an order, {count} at once": ("<=", 6.0) for count in AT_ONCE},
    LAG: ("<", 10.0),
    "certbot's CPU for one of ours": (">=", 4.0),
}


class OneByOne(Client):
    """A client whose newOrder waits for the one before."""

    def __init__(self, *arguments: object, turn: asyncio.Lock, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._turn = turn

    async def new_order(self, names: Sequence[str], more: object = None) -> Order:
        """Ask when it is our turn."""
        async with self._turn:
            return await super().new_order(names, more)  # type: ignore[arg-type]


def run(orders: int = ORDERS) -> tuple[Figures, Goals]:
    """Run it and return figures and goals; ``orders``: so many each time."""
    with tempfile.TemporaryDirectory(prefix="certvoy-orders-") as scratch:
        directory = Path(scratch)
        ca = pebble.start(directory, kind=True)
        try:
            ours = asyncio.run(_ours(ca, orders))
            theirs = _by_library(ca)
            process = _by_certbot(ca, directory)
        finally:
            asyncio.run(ca.stop())
    one = ours[f"CPU ms an order, {AT_ONCE[0]} at once"]
    return {
        **ours,
        "acme library, CPU ms an order": theirs,
        "certbot, CPU ms an order": process,
        "the library's CPU for one of ours": theirs / one,
        "certbot's CPU for one of ours": process / one,
    }, GOALS


async def _ours(ca: pebble.Pebble, orders: int) -> dict[str, float]:
    tokens = Tokens()
    responder = Http01Responder(tokens, host=HOST, port=ca.http_port)
    await responder.start()
    figures: dict[str, float] = {}
    try:
        async with OneByOne(
            ca.directory_url,
            account_key=keys.generate(KeyType.ECDSA_P256),
            ca_file=ca.ca_file,
            turn=asyncio.Lock(),
        ) as client:
            await client.register(terms_agreed=True)
            await _order(client, tokens, "warm.example.com")
            for at_once in AT_ONCE:
                cpu, wall = time.process_time(), time.perf_counter()
                await _all(client, tokens, orders, at_once)
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                # Apart: a clock that ticks each millisecond costs more than an order.
                late: list[float] = []
                ticking = asyncio.create_task(_tick(late))
                await _all(client, tokens, orders, at_once)
                ticking.cancel()
                figures[f"CPU ms an order, {at_once} at once"] = cpu / orders * 1000
                figures[f"orders a second, {at_once} at once"] = orders / wall
                figures[f"event loop late, p99, ms, {at_once} at once"] = quantiles(late, n=100)[98] * 1000
    finally:
        await responder.stop()
    return figures


async def _all(client: Client, tokens: Tokens, orders: int, at_once: int) -> None:
    limit = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with limit:
            await _order(client, tokens, f"{token_hex(8)}.example.com")

    async with asyncio.TaskGroup() as group:
        for _ in range(orders):
            group.create_task(one())


async def _order(client: Client, tokens: Tokens, name: str) -> None:
    key = keys.generate(KeyType.ECDSA_P256)
    chain = await obtain(
        client,
        names=[name],
        csr=keys.csr(key, [name]),
        solver=Http01Solver(tokens),
        journal=MemoryJournal(),
    )
    assert chain.names == (name,)


async def _tick(late: list[float]) -> None:
    """Note how late a timer is: what else runs on the loop waits as long."""
    while True:
        wanted = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append(time.perf_counter() - wanted)


def _by_library(ca: pebble.Pebble) -> float:
    with LibraryClient(ca.directory_url, ca.ca_file, http_port=ca.http_port) as client:
        client.order("warm.library.example.com")
        begun = time.process_time()
        for number in range(LIBRARY_ORDERS):
            client.order(f"n{number}.library.example.com")
        return (time.process_time() - begun) / LIBRARY_ORDERS * 1000


def _by_certbot(ca: pebble.Pebble, directory: Path) -> float:
    program = debian.program("certbot", of="certbot")
    environment = {**os.environ, "REQUESTS_CA_BUNDLE": str(ca.ca_file), "PYTHONWARNINGS": "ignore"}
    if shutil.which("certbot") is None:
        environment["PYTHONPATH"] = str(debian.modules("certbot"))
    places = [f"--{kind}-dir={directory / 'certbot' / kind}" for kind in ("config", "work", "logs")]
    begun = _of_children()
    for number in range(CERTBOT_ORDERS):
        subprocess.run(
            [
                *(str(program), *places, "certonly", "-n", "--agree-tos", "-m", "ops@example.com"),
                *("--standalone", "--http-01-address", HOST, "--http-01-port", str(ca.http_port)),
                *("--server", ca.directory_url, "-d", f"n{number}.certbot.example.com"),
            ],
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
    return (_of_children() - begun) / CERTBOT_ORDERS * 1000


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
