"""An HTTP proxy that opens tunnels (RFC 9110 section 9.3.6), and counts them: each is a TLS handshake."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CONNECT = re.compile(rb"CONNECT ([^ :]+):(\d+) HTTP/1\.1\r\n")


class Tunnel:
    """A running proxy; ``heads`` holds what each client said first, ``answer`` is what it says to all."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[str] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        wanted = _CONNECT.match(head)
        assert wanted, head
        to, into = await asyncio.open_connection(wanted[1].decode(), int(wanted[2]))
        writer.write(self.answer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pour(reader, into))
                group.create_task(_pour(to, writer))
        finally:
            writer.close()
            into.close()


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


@asynccontextmanager
async def tunnel(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> AsyncIterator[Tunnel]:
    running = Tunnel(answer)
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await server.wait_closed()
