"""`python -m benchmarks.stream_server product|bare DIRECTORY`: the server of `stream_cpu`, on its own.

``product`` is certvoy's transport, session and core over a Catalog of one Secret; ``bare`` is what gRPC alone
costs: a handler that answers with as many bytes and reads what comes. Both have the same options and the same
mutual TLS. Lines on stdin are orders: ``push``, a new version for everybody, and ``cpu``. Each is answered on
stdout by the seconds of CPU that were used so far, and how many answers were accepted.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc

from sds_server import log
from sds_server.clock import SystemClock
from sds_server.credentials import Files, server_credentials
from sds_server.identity import Trust
from sds_server.xds import codec
from sds_server.xds.caller import Door
from sds_server.xds.catalog import Catalog, Resource
from sds_server.xds.fetch import Fetcher
from sds_server.xds.limits import Limits
from sds_server.xds.server import ADS, OPTIONS, SdsServer
from sds_server.xds.service import Service

METHOD: Final = "DeltaAggregatedResources"
NAME: Final = "www"
PEM_BYTES: Final = 1_900, 240
"""Of a chain with an intermediate, and of a key on P-256."""


def body(generation: int) -> bytes:
    """Return a Secret as large as one with a real chain."""
    chain, key = PEM_BYTES
    return codec.tls_certificate(NAME, b"%d".zfill(chain) % generation, b"k" * key)


class Counting:
    """An Observer, and the refused content of nobody."""

    def __init__(self) -> None:
        self.accepted_count = 0

    def accepted(self, *_what: object, **_more: object) -> None:
        self.accepted_count += 1

    def of(self, _peer: object) -> frozenset[tuple[str, str]]:
        return frozenset()

    def __getattr__(self, _name: str) -> Any:
        return lambda *_what, **_more: None


class Product:
    def __init__(self, files: Files) -> None:
        self.catalog, self.counting = Catalog(), Counting()
        clock = SystemClock()
        service = Service(
            catalog=self.catalog,
            authorize=lambda _identity, _name: True,
            observer=self.counting,
            refused=self.counting,
            identifier="benchmark",
            clock=clock,
            rng=Random(0),
            limits=Limits(clock),
        )
        trust = Trust("certvoy")
        self._server = SdsServer(
            fetcher=Fetcher(service),
            door=Door(trust.holder, trust.admits),
            credentials=server_credentials(files),
            host="127.0.0.1",
            port=0,
        )

    async def start(self) -> int:
        self.push(1)
        return await self._server.start()

    def push(self, generation: int) -> None:
        encoded = body(generation)
        resource = Resource(NAME, codec.version(b"benchmark", encoded), generation, encoded)
        self.catalog.publish({NAME: resource})


class Bare:
    """Writes the same number of bytes, whenever it should."""

    def __init__(self, files: Files) -> None:
        self.counting = Counting()
        self._news = asyncio.Event()
        self._answer = b"a" * (len(body(1)) + 200)
        self._server = grpc.aio.server(options=OPTIONS)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ADS, {METHOD: handler}),))
        self._port = self._server.add_secure_port("127.0.0.1:0", server_credentials(files))

    async def start(self) -> int:
        await self._server.start()
        return self._port

    def push(self, _generation: int) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _serve(self, requests: AsyncIterator[bytes], call: Any) -> None:
        reading = asyncio.create_task(self._read(requests))
        try:
            while True:
                news = self._news
                await call.write(self._answer)
                await news.wait()
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        count = 0
        async for _ in requests:
            count += 1
            self.counting.accepted_count += count > 1  # the first one asks


async def main(kind: str, directory: Path) -> None:
    files = Files(
        certificate=directory / "server.pem",
        private_key=directory / "server.key",
        client_ca=directory / "ca.pem",
    )
    log.configure(level="info", stream=sys.stderr, replica="benchmark")
    server = Product(files) if kind == "product" else Bare(files)
    print(await server.start(), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), os.fdopen(0, "rb")
    )
    generation = 1
    while order := (await orders.readline()).strip():
        if order == b"push":
            generation += 1
            server.push(generation)
        print(time.process_time(), server.counting.accepted_count, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
