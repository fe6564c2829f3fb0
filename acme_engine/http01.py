"""The HTTP-01 responder (RFC 8555 section 8.3): answers one path and nothing else.

It faces the Internet on port 80, so it is no web server: one request a connection, of a few hundred bytes,
within seconds, matched by one expression. What it can say is the key authorization of a token it was asked
for by name, or an empty refusal.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self, cast

from acme_engine.errors import CannotListen
from acme_engine.lookup import Lookup
from acme_engine.solver import TokenReader

DEADLINE_S = 5.0
"""From the first moment of a connection to its end, however slowly either side goes."""

MAX_REQUEST = 4096
MAX_CONNECTIONS = 512
"""Beyond these the oldest that has asked for nothing yet goes: a CA asks as soon as it has connected, and who
only holds connections must make 512 in the time that takes, not in `DEADLINE_S`."""

# Absolute-form too: "a server MUST accept the absolute-form in requests" (RFC 9112 section 3.2.2), and it is
# how a validator behind HTTP_PROXY asks.
_REQUEST = re.compile(
    rb"(GET|HEAD) (?:http://[A-Za-z0-9.:\[\]-]{1,300})?/\.well-known/acme-challenge/([A-Za-z0-9_-]{22,256})"
    rb" HTTP/1\.[01]"
)
_ANY_REQUEST = re.compile(rb"[A-Z]{1,20} [!-~]{1,3000} HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'+*.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")
_END = b"\r\n\r\n"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    413: "Content Too Large",
    503: "Service Unavailable",
}

_log = logging.getLogger(__name__)


class Http01Responder:
    """Serves the tokens of a store on one address: from `start` to `stop`, or in ``async with``."""

    def __init__(self, store: TokenReader, *, host: str, port: int, deadline_s: float = DEADLINE_S) -> None:
        """Serve ``store`` on ``host:port``; port 0 takes a free one."""
        self.on_asked: Callable[[str], None] = lambda _how: None
        """Told of each request for a token, by how it ended: answered, unknown, unanswered (the store)."""

        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._lookup = Lookup(store)
        self._connections: dict[_Connection, None] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            CannotListen: naming the address.
        """
        if self._server is not None:
            raise RuntimeError("the HTTP-01 responder listens already")  # the first port would stay open
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connection, self._host, self._port)
        except OSError as e:
            raise CannotListen(
                f"the HTTP-01 responder cannot listen on {self._host}:{self._port}: {e.strerror or e}"
            ) from e
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening and cut what is open; safe to call twice."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        self._lookup.close()
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _connection(self) -> "_Connection":
        return _Connection(self._lookup.get, self._connections, self._deadline_s, self.on_asked)


class _Connection(asyncio.Protocol):
    """One connection: collects a request head, answers, closes."""

    def __init__(
        self,
        lookup: Callable[[str], asyncio.Future[str | None]],
        all_: "dict[_Connection, None]",
        deadline_s: float,
        on_asked: Callable[[str], None],
    ) -> None:
        self._lookup = lookup
        self._on_asked = on_asked
        self._all = all_
        self._deadline_s = deadline_s
        self._head = bytearray()
        self._answering: asyncio.Future[str | None] | None = None
        self._heard = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of TCP; not every loop makes asyncio's own
        if len(self._all) >= MAX_CONNECTIONS:
            silent = next((connection for connection in self._all if not connection._heard), None)  # noqa: SLF001
            if silent is None:
                self.abort()
                return
            del self._all[silent]
            silent.abort()
        self._all[self] = None
        self._timer = asyncio.get_running_loop().call_later(self._deadline_s, self.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        self._all.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        if self._heard or self._transport.is_closing():
            return  # what follows the first request is never read: the connection ends with its answer
        self._head += data
        end = self._head.find(_END)
        if end < 0 and len(self._head) <= MAX_REQUEST:
            return
        self._heard = True
        if end < 0 or end > MAX_REQUEST:
            self._refuse(413)
            return
        self._handle(bytes(self._head[:end]))

    def eof_received(self) -> bool:
        """Keep our half open only where an answer is still to be sent."""
        return self._answering is not None

    def abort(self) -> None:
        """Cut the connection at once."""
        self._transport.abort()

    def _handle(self, head: bytes) -> None:
        line, *headers = head.split(b"\r\n")
        names = [m.group(1).lower() if (m := _HEADER.fullmatch(header)) else b"" for header in headers]
        # 400 is for "any HTTP/1.1 request message that lacks a Host header field and to any request message
        # that contains more than one" (RFC 9112 section 3.2); what is no header line at all is none either.
        if b"" in names or names.count(b"host") != 1 or not _ANY_REQUEST.fullmatch(line):
            self._refuse(400)
        elif wanted := _REQUEST.fullmatch(line):
            method, token = wanted.groups()
            self._answering = self._lookup(token.decode("ascii"))
            self._answering.add_done_callback(partial(self._answer, head_only=method == b"HEAD"))
        else:
            self._refuse(404)

    def _answer(self, answering: asyncio.Future[str | None], *, head_only: bool) -> None:
        if answering.cancelled():
            return  # who asked has gone, or we go
        try:
            found = answering.result()
        except Exception as e:  # noqa: BLE001 - whatever the store raises, the Internet gets no more than a status
            _log.debug("challenge.unanswered", extra={"error": type(e).__name__})
            self._on_asked("unanswered")
            self._refuse(503)
            return
        if found is None:
            self._on_asked("unknown")
            self._refuse(404)
        else:
            self._on_asked("answered")
            self._send(200, found.encode("ascii"), head_only=head_only)

    def _refuse(self, status: int) -> None:
        self._send(status, b"", head_only=True)

    def _send(self, status: int, body: bytes, *, head_only: bool) -> None:
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode("ascii") + (b"" if head_only else body))
        self._transport.close()
