"""What a stream costs the control plane in CPU: to open one, and to push to one.

Each stream is as an Envoy's: delta ADS over mutual TLS, a first request whose Node has 61 kB, an ACK for each
answer. The server is a process of its own, so that its CPU is its own. The ratio is to a server that does
nothing but read and write as many bytes by the same gRPC, in the same run. The recorder, which writes what
streams tell to the database, is left out: `inventory_scale` has the whole.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import Extension, Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from acme_engine import keys
from benchmarks.filling import new_ca
from benchmarks.report import Figures, Goals
from benchmarks.stream_server import METHOD, NAME
from sds_server import authority
from sds_server.model import Identity
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import ADS

STREAMS: Final = 500
STREAMS_OF_A_CONNECTION: Final = 25
PUSHES: Final = 10
EXTENSIONS: Final = 516  # of Envoy 1.40, in 61 kB
DEADLINE_S: Final = 120.0

GOALS: Final[Goals] = {"open, ms of CPU": ("<", 1.0), "push, us of CPU": ("<", 250.0)}


def run(size: int = STREAMS) -> tuple[Figures, Goals]:
    """Run it with so many streams and return figures and goals."""
    return asyncio.run(_run(size)), GOALS


async def _run(streams: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="certvoy-bench-") as name:
        directory = Path(name)
        credentials = _write_credentials(directory)
        costs = {kind: await _measure(kind, directory, credentials, streams) for kind in ("bare", "product")}
    (bare_open, bare_push), (opening, push) = costs["bare"], costs["product"]
    return {
        "streams": float(streams),
        "open, ms of CPU": opening * 1e3,
        "open, of bare gRPC, ms of CPU": bare_open * 1e3,
        "open / bare": opening / bare_open,
        "push, us of CPU": push * 1e6,
        "push, of bare gRPC, us of CPU": bare_push * 1e6,
        "push / bare": push / bare_push,
    }


async def _measure(
    kind: str, directory: Path, credentials: grpc.ChannelCredentials, streams: int
) -> tuple[float, float]:
    """Return seconds of CPU for each stream opened, and for each push with its ACK."""
    with (directory / f"{kind}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.stream_server", kind, directory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            port = int(await process.stdout.readline())
            server = _Server(process.stdin, process.stdout)
            async with _clients(port, credentials, streams) as opening:
                before, _ = await server.order("cpu")
                opening.set()
                opened = await server.until(streams) - before
                before, _ = await server.order("cpu")
                for number in range(1, PUSHES + 1):
                    await server.order("push")
                    after = await server.until(streams * (number + 1))
                return opened / streams, (after - before) / (streams * PUSHES)
    finally:
        process.kill()
        await process.wait()


class _Server:
    """The process, by its pipe."""

    def __init__(self, orders: asyncio.StreamWriter, answers: asyncio.StreamReader) -> None:
        self._orders, self._answers = orders, answers

    async def order(self, what: str) -> tuple[float, int]:
        """Return the CPU that it has used, and the answers that were accepted."""
        self._orders.write(what.encode() + b"\n")
        cpu, accepted = (await self._answers.readline()).split()
        return float(cpu), int(accepted)

    async def until(self, accepted: int) -> float:
        """Return the CPU that it has used when so many answers were accepted."""
        while True:
            cpu, so_far = await self.order("cpu")
            if so_far >= accepted:
                return cpu
            await asyncio.sleep(0.1)  # each time asked is paid by who is measured


@asynccontextmanager
async def _clients(
    port: int, credentials: grpc.ChannelCredentials, streams: int
) -> AsyncIterator[asyncio.Event]:
    """Let so many clients come when the event is set, and stay for the block."""
    opening = asyncio.Event()
    channels = [
        grpc.aio.secure_channel(
            f"localhost:{port}", credentials, options=(("grpc.use_local_subchannel_pool", 1),)
        )
        for _ in range(-(-streams // STREAMS_OF_A_CONNECTION))
    ]
    first = _first_request()
    tasks = [
        asyncio.create_task(_client(channels[number % len(channels)], first, opening))
        for number in range(streams)
    ]
    try:
        yield opening
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()


async def _client(channel: grpc.aio.Channel, first: bytes, opening: asyncio.Event) -> None:
    await opening.wait()
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(f"/{ADS}/{METHOD}")()
    await call.write(first)
    while isinstance(data := await call.read(), bytes):
        # By hand, for the clients' own sake: of the bare server's answer nothing can be read.
        nonce = DeltaDiscoveryResponse.FromString(data).nonce if data[:1] != b"a" else "a"
        await call.write(DeltaDiscoveryRequest(type_url=TYPE_URL, response_nonce=nonce).SerializeToString())


def _first_request() -> bytes:
    """Return one as large as that of Envoy 1.40."""
    extensions = [
        Extension(
            name=f"envoy.filters.network.of.the.benchmark.{number:04d}",
            category="envoy.filters.network",
            type_urls=[f"envoy.extensions.filters.of_{number:04d}"],
        )
        for number in range(EXTENSIONS)
    ]
    node = Node(id="edge-1", cluster="edge", user_agent_name="envoy", extensions=extensions)
    return DeltaDiscoveryRequest(
        node=node, type_url=TYPE_URL, resource_names_subscribe=[NAME]
    ).SerializeToString()


def _write_credentials(directory: Path) -> grpc.ChannelCredentials:
    """Write what the server needs, and return what its clients do."""
    ca, now, lifetime = new_ca("benchmark"), datetime.now(UTC), timedelta(days=1)
    server, client = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = authority.pem([ca.certificate])
    certificate = authority.server_certificate(
        ca, server.public_key(), names=["localhost"], now=now, lifetime=lifetime
    )
    (directory / "ca.pem").write_text(root)
    (directory / "server.pem").write_text(authority.pem([certificate]))
    (directory / "server.key").write_bytes(keys.pem(server))
    identity = Identity("spiffe://benchmark.test/edge")
    held = authority.credential(
        ca, client.public_key(), identity=identity, enrolment=1, now=now, lifetime=lifetime
    )
    return grpc.ssl_channel_credentials(root.encode(), keys.pem(client), authority.pem([held]).encode())
