"""Users of a TLS listener: new handshakes one after another, and a connection that is kept open."""

import asyncio
import ssl
from typing import Self

from sds_server.targets.probe import split


class Traffic:
    """Both, for the length of a block.

    ``failed``: new handshakes that failed; ``cut``: new connections closed before their one request was
    answered; ``broken``: how often the one that is held was closed.
    """

    def __init__(self, address: str, server_name: str) -> None:
        self._host, self._port = split(address)
        self._name = server_name
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self.done, self.failed, self.cut, self.held, self.broken = 0, 0, 0, 0, 0
        self.errors: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._new()), asyncio.create_task(self._keep())]
        return self

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __str__(self) -> str:
        return (
            f"{self.done} new connections; {self.failed} handshakes failed, {self.cut} requests on new ones;"
            f" {self.held} requests on a held one, which broke {self.broken} times"
        )

    async def more(self, count: int) -> None:
        """Return after so many more new connections."""
        wanted = self.done + count
        async with asyncio.timeout(30):
            while self.done < wanted:
                await asyncio.sleep(0.005)

    async def _new(self) -> None:
        while True:
            try:
                reader, writer = await self._connect()
            except (OSError, EOFError, TimeoutError) as e:
                self.failed += 1
                self.errors.append(repr(e))
                await asyncio.sleep(0.005)
                continue
            try:
                await self._ask(reader, writer)
                self.done += 1
            except (OSError, EOFError, TimeoutError) as e:
                self.cut += 1
                self.errors.append(repr(e))
            finally:
                writer.transport.abort()
            await asyncio.sleep(0.005)

    async def _keep(self) -> None:
        while True:
            try:
                reader, writer = await self._connect()
            except (OSError, EOFError, TimeoutError):
                await asyncio.sleep(0.005)  # counted where handshakes are
                continue
            try:
                while True:
                    await self._ask(reader, writer)
                    self.held += 1
                    await asyncio.sleep(0.01)
            except (OSError, EOFError, TimeoutError):
                self.broken += 1
            finally:
                writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(10):
            return await asyncio.open_connection(
                self._host, self._port, ssl=self._context, server_hostname=self._name
            )

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask once, and read the answer whole."""
        writer.write(f"GET /ping HTTP/1.1\r\nHost: {self._name}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(
                int(line.partition(":")[2]) for line in head.splitlines() if line.startswith("content-length")
            )
            await reader.readexactly(length)
