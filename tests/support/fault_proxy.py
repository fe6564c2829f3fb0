"""A proxy that stands between two parts and does to their connections what networks do.

For TCP and Unix sockets alike::

    async with FaultProxy(upstream=("127.0.0.1", 5432)) as proxy:
        ...                                # connect to proxy.address
        proxy.become(Fault.BLACK_HOLE)     # open connections fall silent too
        proxy.heal()
"""

import asyncio
import contextlib
import socket
import struct
from enum import StrEnum
from pathlib import Path
from typing import Self

Address = tuple[str, int] | Path
"""Where a socket is: host and port, or a path."""

CHUNK = 64 * 1024
RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST instead of FIN (tcp(7))


class Fault(StrEnum):
    """What becomes of the connections, those that are open included."""

    PASS = "pass"
    """Nothing: bytes go through."""

    LATENCY = "latency"
    """Each chunk waits `FaultProxy.latency_s`, in both directions."""

    RESET = "reset"
    """RST for open connections and for new ones; on a Unix socket, an abrupt end."""

    BLACK_HOLE = "black_hole"
    """Connections are accepted and nothing moves; as TCP sends again, it all flows when healed."""

    HALF_CLOSE = "half_close"
    """The client reads the end, and what it writes goes through; healing mends new connections only."""


class FaultProxy:
    """Listens, connects each client to ``upstream``, and is at fault on request.

    ``listen`` is an address of ours; without one, a TCP port of the loopback is taken.
    """

    def __init__(
        self, upstream: Address, *, listen: Address = ("127.0.0.1", 0), latency_s: float = 0.1
    ) -> None:
        self.latency_s = latency_s
        self.fault = Fault.PASS
        self.accepted = 0
        """How many connections have come so far."""

        self._upstream = upstream
        self._listen = listen
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> Address:
        """Where it listens."""
        if isinstance(self._listen, Path):
            return self._listen
        assert self._server is not None, "not started"
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._clients)

    async def start(self) -> None:
        """Listen."""
        if isinstance(self._listen, Path):
            self._server = await asyncio.start_unix_server(self._serve, self._listen)
        else:
            self._server = await asyncio.start_server(self._serve, *self._listen)

    async def stop(self) -> None:
        """End every connection, and listen no more."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def become(self, fault: Fault) -> None:
        """Be at fault from now on."""
        self.fault = fault
        (self._flows.clear if fault is Fault.BLACK_HOLE else self._flows.set)()
        for client in list(self._clients):
            self._hurt(client)

    def heal(self) -> None:
        """Let bytes through again."""
        self.become(Fault.PASS)

    def _hurt(self, client: asyncio.StreamWriter) -> None:
        if self.fault is Fault.RESET:
            sock = client.get_extra_info("socket")
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            client.transport.abort()
        elif self.fault is Fault.HALF_CLOSE:
            _end(client)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(to_client)
        self.accepted += 1
        self._hurt(to_client)
        to_upstream: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            from_upstream, to_upstream = await self._connect()
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(from_client, to_upstream))
                pumps.create_task(self._pump(from_upstream, to_client))
        except* OSError:
            pass  # either end is gone: so is the connection
        except* asyncio.CancelledError:
            pass  # stopped
        finally:
            for writer in (to_client, to_upstream):
                if writer is not None:
                    writer.transport.abort()
            self._clients.discard(to_client)
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if self.fault is Fault.LATENCY:
                await asyncio.sleep(self.latency_s)
            await self._flows.wait()
            if _ended(writer):
                continue  # half closed: read on, so that whoever writes is not held up
            writer.write(data)
            await writer.drain()
        await self._flows.wait()
        _end(writer)


def _ended(writer: asyncio.StreamWriter) -> bool:
    return bool(getattr(writer.transport, "_eof", False)) or writer.transport.is_closing()


def _end(writer: asyncio.StreamWriter) -> None:
    if not _ended(writer):
        with contextlib.suppress(OSError):
            writer.write_eof()
