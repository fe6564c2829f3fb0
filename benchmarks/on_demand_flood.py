"""A flood of made-up names: what 100,000 of them cost a replica, and whoever asks for a name that there is.

`certvoy serve` with its embedded PostgreSQL, a rule with a grant to issue and an operator's URL that says no,
and a client that asks as an Envoy on ADS does: subscribe, hear that there is none, unsubscribe. The CA is
nobody: an order would fail. Rounds of equal size are compared, as the first one fills caches. In the last one
the names are too deep for the rule, so that memory alone says no.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg
import grpc
import yaml
from aiohttp import web
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

from benchmarks.report import Figures, Goals
from sds_server import foundation
from sds_server.config.certvoy_yaml import load
from sds_server.programs.child import Child
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import ADS

HOST: Final = "127.0.0.1"
NAMES: Final = 100_000
ROUNDS: Final = 5
AT_ONCE: Final = 50
"""Names of which no answer has come yet: an edge has so many handshakes with strangers."""

IDENTITY: Final = "spiffe://example.com/edge"
PROBES: Final = 200

GOALS: Final[Goals] = {
    "orders": ("==", 0.0),
    "secrets": ("==", 0.0),
    "lines of the audit": ("<", 10.0),
    "memory, last round / second": ("<", 1.05),
    "from memory, names a second": (">=", 1_000.0),
    "a miss alone, median ms": ("<", 5.0),
}


def run(names: int = NAMES) -> tuple[Figures, Goals]:
    """Run it with so many names and return figures and goals."""
    return asyncio.run(_run(names)), GOALS


async def _run(names: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="certvoy-bench-") as home:
        directory = Path(home)
        runner, url = await _operator()
        replica = _serve(directory, url)
        try:

            async def answers() -> bool:
                return (directory / "ready").exists()

            await replica.ready(answers, timeout_s=60)
            return await _measure(directory, replica, names)
        finally:
            await replica.stop(timeout_s=30)
            await runner.cleanup()


async def _operator() -> tuple[web.AppRunner, str]:
    """Say no to every name."""

    async def refuse(_request: web.Request) -> web.Response:
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/may", refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    return runner, f"http://{HOST}:{runner.addresses[0][1]}/may"


def _serve(directory: Path, url: str) -> Child:
    rule = {"name": "shops", "suffix": "*.shops.example.com", "issuer": "nobody", "ask": url}
    settings = {
        "database": "embedded",
        "issuers": {"nobody": {"directory": f"https://{HOST}:1/directory"}},
        "http01": {"listen": f"{HOST}:0"},
        "sds": {
            "listen": f"{HOST}:0",
            "sockets": [{"path": str(directory / "run" / "edge.sock"), "identity": IDENTITY}],
        },
        "grants": [{"identity": IDENTITY, "names": ["*.shops.example.com"], "issue": True}],
        "on_demand": [rule],
        "log": {"level": "warning"},
    }
    config = directory / "certvoy.yaml"
    config.write_text(yaml.safe_dump(settings))
    return Child(
        "certvoy",
        [
            *(sys.executable, "-m", "sds_server", "serve"),
            *("--config", config, "--ports-file", directory / "ready"),
        ],
        log=directory / "log",
        cwd=Path(__file__).parent.parent,
    )


class _Edge:
    """A delta stream on ADS."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def say(self, **message: Any) -> None:
        await self._call.write(
            pb.DeltaDiscoveryRequest(type_url=TYPE_URL, node=Node(id="edge-1"), **message).SerializeToString()
        )

    async def ask(self, names: list[str]) -> None:
        """Ask for each, some at once, and hear that there is none."""
        waiting, left = 0, iter(names)
        for name in left:
            await self.say(resource_names_subscribe=[name])
            waiting += 1
            if waiting >= AT_ONCE:
                waiting -= await self._hear()
        while waiting:
            waiting -= await self._hear()

    async def _hear(self) -> int:
        response = pb.DeltaDiscoveryResponse.FromString(await self._call.read())
        assert not response.resources, "there is none"
        await self.say(resource_names_unsubscribe=response.removed_resources, response_nonce=response.nonce)
        return len(response.removed_resources)


async def _measure(directory: Path, replica: Child, names: int) -> Figures:
    rng = Random(16)
    memory, seconds = [], []
    async with grpc.aio.insecure_channel(f"unix:{directory / 'run' / 'edge.sock'}") as channel:
        edge = _Edge(channel.stream_stream(f"/{ADS}/DeltaAggregatedResources")())
        for _ in range(ROUNDS):
            asked = [f"{rng.getrandbits(64):x}.shops.example.com" for _ in range(names // ROUNDS)]
            started = time.perf_counter()
            await edge.ask(asked)
            seconds.append(time.perf_counter() - started)
            memory.append(_rss_mb(replica))
        deep = [f"{rng.getrandbits(64):x}.too.deep.shops.example.com" for _ in range(names // ROUNDS)]
        started = time.perf_counter()
        await edge.ask(deep)
        from_memory_s = time.perf_counter() - started
        alone = []
        for _ in range(PROBES):
            started = time.perf_counter()
            await edge.ask(asked[-1:])
            alone.append((time.perf_counter() - started) * 1000)
    sql = await asyncpg.connect(**foundation.connect_arguments(load(directory / "certvoy.yaml")))
    try:
        orders, secrets, audited = [
            float(await sql.fetchval(f"SELECT count(*) FROM {table}"))
            for table in ("acme_order", "secret", "certaudit WHERE action LIKE 'on_demand.%'")
        ]
    finally:
        await sql.close()
    return {
        "names": float(names),
        "each asked of the URL, names a second": names / sum(seconds),
        "from memory, names a second": len(deep) / from_memory_s,
        "a miss alone, median ms": statistics.median(alone),
        "memory after the first round, MB": memory[0],
        "memory after the last, MB": memory[-1],
        "memory, last round / second": memory[-1] / memory[1],
        "orders": orders,
        "secrets": secrets,
        "lines of the audit": audited,
    }


def _rss_mb(process: Child) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
