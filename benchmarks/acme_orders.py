"""What an order costs its client, at a real Pebble: CPU, orders a second, and how long the event loop waits.

Beside it, in the same run and at the same CA: lego and certbot, a process an order, as their users run them;
and the `acme` library's own client, synchronous. CPU is the client's own, of all its processes and threads;
the CA's never. All take turns, round by round, and a figure is the median of its rounds: what else this
machine does falls on all of them. newOrder is asked one at a time, or Pebble deadlocks.
"""

import asyncio
import gc
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from secrets import token_hex
from statistics import median
from typing import Final

from acme_engine import Client, Http01Responder, Http01Solver, KeyType, keys, obtain
from benchmarks import order_programs
from benchmarks.library_client import LibraryClient
from benchmarks.report import Figures, Goals
from benchmarks.turns import Turns
from tests.support import pebble
from tests.support.acme import MemoryJournal, OneByOne, Tokens, some_at_once

ORDERS: Final = 192
"""So many in all rounds with 32 at once, half with 8; one by one, which waits for polls, `FEW` a round."""

ROUNDS: Final = 3
AT_ONCE: Final = (1, 8, 32)
FEW: Final = 48
LEGO_ORDERS: Final = 3
LIBRARY_ORDERS: Final = 2

GOALS: Final[Goals] = {
    **{f"CPU ms an order, {count} at once": ("<=", 6.0) for count in AT_ONCE},
    **{f"event loop late, p99, ms, {count} at once": ("<", 10.0) for count in AT_ONCE},
    "lego's CPU for one of ours": (">=", 4.0),
    "certbot's CPU for one of ours": (">=", 4.0),
}


def run(orders: int = ORDERS) -> tuple[Figures, Goals]:
    """Run it and return figures and goals; ``orders``: so many with 32 at once."""
    with tempfile.TemporaryDirectory(prefix="certvoy-orders-") as scratch:
        directory = Path(scratch)
        ca = pebble.start(directory, kind=True)
        try:
            return _compare(ca, directory, orders), GOALS
        finally:
            asyncio.run(ca.stop())


def _compare(ca: pebble.Pebble, directory: Path, orders: int) -> Figures:
    rounds: dict[str, list[float]] = defaultdict(list)
    lego, certbot = order_programs.lego(ca, directory), order_programs.certbot(ca, directory)
    for order in (lego, certbot):
        order("warm.example.com")  # which makes the account
    for _ in range(ROUNDS):
        turns = Turns()
        with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, turns)) as runner:
            runner.run(_ours(ca, orders // ROUNDS, rounds, turns))
        theirs = {
            "lego": _cpu_ms(lego, LEGO_ORDERS),
            "acme library": _by_library(ca),
        }
        if "certbot, CPU ms an order" not in rounds:  # seconds, and a hundredfold: once will do
            theirs["certbot"] = _cpu_ms(certbot, 1)
        one = rounds[f"CPU ms an order, {AT_ONCE[0]} at once"][-1]
        for who, cpu_ms in theirs.items():
            rounds[f"{who}, CPU ms an order"].append(cpu_ms)
            rounds[f"{who}'s CPU for one of ours"].append(cpu_ms / one)
    return {figure: median(of_rounds) for figure, of_rounds in rounds.items()}


async def _ours(ca: pebble.Pebble, orders: int, rounds: dict[str, list[float]], turns: Turns) -> None:
    # What tests import is no part of an order; a full collection of it would be, now and then.
    gc.collect()
    gc.freeze()
    tokens = Tokens()
    responder = Http01Responder(tokens, host=order_programs.HOST, port=ca.http_port)
    await responder.start()
    try:
        async with OneByOne(
            ca.directory_url,
            account_key=keys.generate(KeyType.ECDSA_P256),
            ca_file=ca.ca_file,
        ) as client:
            await client.register(terms_agreed=True)
            order = partial(_order, client, tokens)
            for at_once in AT_ONCE:
                # Connections and nonces for as many: they are made once, and serve every later order.
                await some_at_once(order, at_once, at_once=at_once)
                count = FEW if at_once == 1 else orders * min(at_once, 16) // 16
                turns.begin()
                cpu, wall = time.process_time(), time.perf_counter()
                await some_at_once(order, count, at_once=at_once)
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                late_s, of_cpu_s = turns.late_s()
                for figure, value in {
                    "CPU ms an order": cpu / count * 1000,
                    "orders a second": count / wall,
                    "event loop late, p99, ms": late_s * 1000,
                    "of it by our own CPU, ms": of_cpu_s * 1000,
                }.items():
                    rounds[f"{figure}, {at_once} at once"].append(value)
    finally:
        await responder.stop()


async def _order(client: Client, tokens: Tokens, _number: int) -> None:
    name = f"{token_hex(8)}.example.com"
    key = keys.generate(KeyType.ECDSA_P256)
    chain = await obtain(
        client,
        names=[name],
        csr=keys.csr(key, [name]),
        solver=Http01Solver(tokens),
        journal=MemoryJournal(),
    )
    assert chain.names == (name,)


def _cpu_ms(order: Callable[[str], None], count: int) -> float:
    return order_programs.cpu_ms(order, [f"{token_hex(8)}.example.com" for _ in range(count)])


def _by_library(ca: pebble.Pebble) -> float:
    with LibraryClient(ca.directory_url, ca.ca_file, http_port=ca.http_port) as client:
        begun = time.process_time()
        for _ in range(LIBRARY_ORDERS):
            client.order(f"{token_hex(8)}.library.example.com")
        return (time.process_time() - begun) / LIBRARY_ORDERS * 1000
