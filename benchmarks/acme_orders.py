"""What an order costs its client, at a real Pebble: CPU, orders a second, and how long the event loop waits.

Beside it, in the same run and at the same CA: lego and certbot, a process an order, as their users run them;
and the `acme` library's own client, synchronous. CPU is the client's own, of all its processes and threads;
the CA's never: see `cores`.

All take turns, round by round. What else a machine does only ever adds to what a thing costs, up to a half of
it within minutes, so that CPU is the least of all turns, as in `timeit`; the median stands beside it, and is
what all else is told by. newOrder is asked one at a time, or Pebble deadlocks.
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
from benchmarks import cores, order_programs
from benchmarks.library_client import LibraryClient
from benchmarks.report import Figures, Goals
from benchmarks.turns import Turns
from tests.support import pebble
from tests.support.acme import MemoryJournal, OneByOne, Tokens, some_at_once

ORDERS: Final = 320
"""So many in all rounds with 32 at once, half with 8; one by one, which waits for polls, `FEW` a turn."""

ROUNDS: Final = 5
AT_ONCE: Final = (1, 8, 32)
SERIES: Final = (1, 1, 1, *AT_ONCE[1:])
FEW: Final = 16
COST: Final = "CPU ms an order"
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
    with tempfile.TemporaryDirectory(prefix="certvoy-orders-") as scratch, cores.apart() as leave_to_ca:
        directory = Path(scratch)
        ca = pebble.start(directory, kind=True)
        leave_to_ca()
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
        rounds[f"lego, {COST}"] += [_cpu_ms(lego) for _ in range(LEGO_ORDERS)]
        rounds[f"acme library, {COST}"] += _by_library(ca)
        if f"certbot, {COST}" not in rounds:  # seconds, and a hundredfold: once will do
            rounds[f"certbot, {COST}"].append(_cpu_ms(certbot))
    figures: dict[str, float] = {}
    for figure, of_rounds in rounds.items():
        if COST in figure:
            figures[figure] = min(of_rounds)
            figures[f"{figure}, median"] = median(of_rounds)
        else:
            figures[figure] = median(of_rounds)
    for who in ("lego", "acme library", "certbot"):
        figures[f"{who}'s CPU for one of ours"] = (
            figures[f"{who}, {COST}"] / figures[f"{COST}, {AT_ONCE[0]} at once"]
        )
    return figures


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
            for at_once in SERIES:
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


def _cpu_ms(order: Callable[[str], None]) -> float:
    return order_programs.cpu_ms(order, f"{token_hex(8)}.example.com")


def _by_library(ca: pebble.Pebble) -> list[float]:
    with LibraryClient(ca.directory_url, ca.ca_file, http_port=ca.http_port) as client:
        costs = []
        for _ in range(LIBRARY_ORDERS):
            begun = time.process_time()
            client.order(f"{token_hex(8)}.library.example.com")
            costs.append((time.process_time() - begun) * 1000)
        return costs
