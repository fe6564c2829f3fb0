"""From stored to proved: how long until a handshake with a real Envoy shows the new certificate.

Everything runs on loopback as in `certvoy demo`: PostgreSQL, Caddy as the CA, the control plane, one Envoy
over delta ADS, and a client that handshakes without pause. The ratio is to that client's own handshakes in
the same run.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks.report import Figures, Goals
from sds_server import foundation
from sds_server.config.certvoy_yaml import load
from sds_server.demo.stage import HOST, NODE, SECRET, Stage
from sds_server.inventory import progress, rotations
from sds_server.model import Outcome, Reason

ROTATIONS: Final = 20
HANDSHAKES: Final = 1000

GOALS: Final[Goals] = {
    "stored to proved, median ms": ("<", 100.0),
    "failed handshakes": ("==", 0.0),
    "handshakes": (">=", float(HANDSHAKES)),
    "rotations": ("==", float(ROTATIONS)),
}

STORED_TO_PROVED: Final = """
SELECT extract(epoch FROM proved.timestamp - issued.timestamp) * 1000 AS ms
  FROM certaudit issued JOIN certaudit proved USING (cert_id)
 WHERE issued.action = 'certificate.issued' AND proved.action = 'delivery.proved' ORDER BY issued.id
"""


def run() -> tuple[Figures, Goals]:
    """Run it and return figures and goals."""
    return asyncio.run(_run()), GOALS


async def _run() -> Figures:
    with tempfile.TemporaryDirectory(prefix="certvoy-bench-") as directory:
        stage = Stage(Path(directory))
        try:
            await stage.start_ca()
            await stage.start_control_plane()
            await stage.start_envoy()
            await stage.certvoy("targets", "add", NODE, "--probe", f"{HOST}:{stage.envoy_port}")
            return await _measure(stage)
        finally:
            await stage.stop()


async def _measure(stage: Stage) -> Figures:
    await _complete(stage)
    seconds: list[float] = []
    failures = 0
    rotating = asyncio.create_task(_rotate(stage))
    while not rotating.done() or len(seconds) < HANDSHAKES:
        started = time.perf_counter()
        try:
            await stage.served()
        except OSError:
            failures += 1
        seconds.append(time.perf_counter() - started)
    await rotating
    connection = await asyncpg.connect(**foundation.connect_arguments(load(stage.config)))
    # The first certificate waited for Envoy to be started: not a rotation.
    latencies = [float(row["ms"]) for row in await connection.fetch(STORED_TO_PROVED)][1:]
    await connection.close()
    handshake_ms = statistics.median(seconds) * 1000
    median_ms = statistics.median(latencies)
    return {
        "rotations": float(len(latencies)),
        "stored to proved, median ms": median_ms,
        "stored to proved, max ms": max(latencies),
        "handshake of the client, median ms": handshake_ms,
        "stored to proved / handshake": median_ms / handshake_ms,
        "handshakes": float(len(seconds)),
        "failed handshakes": float(failures),
    }


async def _rotate(stage: Stage) -> None:
    for _ in range(ROTATIONS):
        database = await stage.inventory()
        try:
            await rotations.open_for(database, SECRET, reason=Reason.OPERATOR, actor="person:benchmark")
        finally:
            await database.close()
        await _complete(stage)


async def _complete(stage: Stage) -> None:
    database = await stage.inventory()
    try:

        async def completed() -> bool:
            return (await progress.latest(database, SECRET)).outcome is Outcome.COMPLETED

        await stage.until("the rotation is complete", completed)
    finally:
        await database.close()
