"""How many validations a replica's HTTP-01 responder answers: each a connection of its own, as a CA makes it.

The tokens are in PostgreSQL, as those are that another replica has presented. The client is another process:
what is counted is the CPU of the responder's, and what the answers take with as many at once as a CA has that
looks from several places. Every tenth asks for a token that nobody has.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from acme_engine.http01 import Http01Responder
from benchmarks.report import Figures, Goals
from sds_server.inventory.database import open_database
from sds_server.inventory.schema import migrate
from sds_server.inventory.tokens import PreflightTokens
from sds_server.programs.postgres import EmbeddedPostgres

HOST: Final = "127.0.0.1"
PATH: Final = "/.well-known/acme-challenge/"
ANSWERS: Final = 20_000
TOKENS: Final = 1_000
AT_ONCE: Final = 64
GUESSED_EVERY: Final = 10

GOALS: Final[Goals] = {
    "wrong answers": ("==", 0.0),
    "answers a second of one core": (">=", 2_000.0),
}


def run(answers: int = ANSWERS) -> tuple[Figures, Goals]:
    """Run it with so many validations and return figures and goals."""
    return asyncio.run(_run(answers)), GOALS


async def _run(answers: int) -> Figures:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certvoy-bench-")))
        postgres = EmbeddedPostgres(directory / "postgres")
        await postgres.start()
        stack.push_async_callback(postgres.stop)
        database = await open_database(postgres.connect)
        stack.push_async_callback(database.close)
        await migrate(database)
        store = PreflightTokens(database)
        tokens = [_token(number) for number in range(TOKENS)]
        for token in tokens:
            await store.put(token, f"{token}.thumbprint", lasts=timedelta(hours=1))
        responder = Http01Responder(store, host=HOST, port=0)
        port = await responder.start()
        stack.push_async_callback(responder.stop)
        client = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        ask = asyncio.get_running_loop().run_in_executor
        await ask(client, _ask, port, tokens, TOKENS)  # all is loaded then, the pool connected
        began, cpu = time.perf_counter(), time.process_time()
        took_s, wrong = await ask(client, _ask, port, tokens, answers)
        elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    times = sorted(took_s)
    return {
        "validations": float(answers),
        "wrong answers": float(wrong),
        "answers a second": answers / elapsed_s,
        "answers a second of one core": answers / cpu_s,
        "CPU an answer, ms": cpu_s * 1000 / answers,
        "an answer, median ms": times[len(times) // 2] * 1000,
        "an answer, p99 ms": times[int(len(times) * 0.99)] * 1000,
    }


def _ask(port: int, tokens: Sequence[str], number: int) -> tuple[list[float], int]:
    """Ask so often, in another process; return how long each took in seconds, and how many were wrong."""
    return asyncio.run(_asked(port, tokens, number))


async def _asked(port: int, tokens: Sequence[str], number: int) -> tuple[list[float], int]:
    took_s: list[float] = []
    wrong = 0
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(nth: int) -> None:
        nonlocal wrong
        guessed = nth % GUESSED_EVERY == 0
        token = _token(TOKENS + nth) if guessed else tokens[nth % len(tokens)]
        async with at_once:
            began = time.perf_counter()
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(f"GET {PATH}{token} HTTP/1.1\r\nHost: www.example.com\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            took_s.append(time.perf_counter() - began)
        ends = b"\r\n\r\n" if guessed else f"\r\n\r\n{token}.thumbprint".encode()
        status = b"HTTP/1.1 404 " if guessed else b"HTTP/1.1 200 "
        wrong += not (answer.startswith(status) and answer.endswith(ends))

    await asyncio.gather(*map(one, range(number)))
    return took_s, wrong


def _token(number: int) -> str:
    return f"{number:043d}"
