"""What sealing costs who writes: audited transactions a second of 16 writers, beside a sealer and without.

On a durable PostgreSQL, in turns, so that a machine that grows slower does so for both.
"""

import asyncio
import os
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.report import Figures, Goals
from sds_server import log
from sds_server.audit.checkpoint import Signer
from sds_server.audit.witness import Witness
from sds_server.clock import SystemClock
from sds_server.inventory import audit
from sds_server.inventory.database import Database, open_database
from sds_server.inventory.schema import migrate
from sds_server.lifecycle.audit_sealer import EVERY, AuditSealer
from sds_server.lifecycle.loop import Loop
from sds_server.programs.postgres import EmbeddedPostgres

WRITERS: Final = 16
ROUND_S: Final = 3.0
ROUNDS: Final = 9
BACKLOG: Final = 20_000
DETAIL: Final = {"rotation": 1, "generation": 7, "serial_number": "0f" * 16, "reason": "renewal"}
GOALS: Final[Goals] = {"with_sealing_to_without": (">=", 0.9)}


def run(backlog: int = BACKLOG) -> tuple[Figures, Goals]:
    """Measure; ``backlog``: so many entries are sealed at once at last."""
    log.configure(level="error", replica="benchmark")
    with tempfile.TemporaryDirectory(prefix="certvoy-audit-") as directory:
        return asyncio.run(_measured(Path(directory), backlog)), GOALS


async def _measured(directory: Path, backlog: int) -> Figures:
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(directory / "postgres")
        await postgres.start()
        stack.push_async_callback(postgres.stop)
        database = await open_database(postgres.connect, size=WRITERS + 2)
        stack.push_async_callback(database.close)
        await migrate(database)
        sealer = AuditSealer(
            database=database,
            signer=Signer("certvoy/benchmark", Ed25519PrivateKey.generate()),
            witness=Witness(directory / "checkpoints.jsonl"),
            holder="one",
            actor="replica:one",
            clock=SystemClock(),
        )
        await _write(database, 1.0)  # warm
        await sealer.step()
        without, sealing, lag = [], [], 0.0
        for _ in range(ROUNDS):
            without.append(await _write(database, ROUND_S))
            await sealer.step()
            loop = asyncio.create_task(Loop("audit-sealer", sealer.step, every=EVERY).run())
            watching = asyncio.create_task(_oldest(sealer))
            sealing.append(await _write(database, ROUND_S))
            lag = max(lag, await _stopped(watching))
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await sealer.step()
        return {
            "appends_a_second_without_sealing": median(without),
            "appends_a_second_with_sealing": median(sealing),
            # Of each turn by itself: what else the machine does changes from minute to minute.
            "with_sealing_to_without": median(
                one / other for one, other in zip(sealing, without, strict=True)
            ),
            "oldest_unsealed_while_writing_s": lag,
            "backlog_entries_a_second": await _backlog(database, sealer, backlog),
            "cores": float(os.cpu_count() or 1),
        }


async def _write(database: Database, seconds: float) -> float:
    """Return how many transactions with one entry each are committed a second."""
    until, done = time.monotonic() + seconds, 0

    async def writer(number: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            async with database.transaction() as tx:
                await audit.append(
                    tx, action="rotation.opened", actor="replica:one", subject=f"s{number}", detail=DETAIL
                )
            done += 1

    begun = time.monotonic()
    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    return done / (time.monotonic() - begun)


async def _oldest(sealer: AuditSealer) -> float:
    """Return, when cancelled, how old an entry without a leaf ever was, as the metric tells it."""
    oldest = 0.0
    try:
        while True:
            oldest = max(oldest, sealer.unsealed_s)
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return oldest


async def _stopped(task: "asyncio.Task[float]") -> float:
    task.cancel()
    return await task


async def _backlog(database: Database, sealer: AuditSealer, entries: int) -> float:
    """Return how many entries a second are sealed of those that have gathered."""
    async with database.transaction() as tx:
        for number in range(entries):
            await audit.append(
                tx, action="rotation.opened", actor="replica:one", subject=f"b{number}", detail=DETAIL
            )
    begun = time.monotonic()
    await sealer.step()
    return entries / (time.monotonic() - begun)
