"""HTTP/1.1 (RFC 9112) to one origin: connections that are kept, and one exchange at a time on each.

An order is seven small requests that wait for one another: what a client of all of HTTP does around each of
them costs more than the rest of the order. This one does what a CA needs and no more: no redirects, cookies,
compression or streams. Messages are read by llhttp, through httptools.

The server is taken for hostile: what it sends is bounded, and a connection that says a byte more than its
answer is not used again.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import httptools
from aiohappyeyeballs import AddrInfoType, start_connection
from multidict import CIMultiDict
from yarl import URL

from acme_engine.proxy import Proxy

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 1024 * 1024
MAX_CONNECTIONS: Final = 16

KEEP_S: Final = 15.0
"""How long a connection waits for the next exchange. Most servers wait longer: they cut none we write on."""

CONNECT_TIMEOUT_S: Final = 10.0
HAPPY_EYEBALLS_S: Final = 0.25
"""Before the next address is tried beside the first (RFC 8305 section 5)."""

_OK: Final = 200
_SAFE: Final = {"GET", "HEAD"}


class CannotConnect(ConnectionError):
    """There is no connection: nothing was sent."""


class TooLong(Exception):
    """An answer of more than `MAX_HEAD` or `MAX_BODY` bytes: cut off, and the connection with it."""


@dataclass(slots=True)
class Answer:
    """One response, whole."""

    status: int = 0
    reason: str = ""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytearray = field(default_factory=bytearray)


class Connections:
    """The connections to one origin."""

    def __init__(
        self, origin: URL, *, tls: Callable[[], ssl.SSLContext] | None = None, proxy: Proxy | None = None
    ) -> None:
        """Connect to ``origin``, through ``proxy``; without ``tls``, asked at each connect, in the clear."""
        self._origin = origin
        self._tls = tls
        self._proxy = proxy
        relayed = proxy.headers if proxy is not None and tls is None else None
        self._before_path = str(origin) if relayed is not None else ""
        self._fields = lines({"Host": origin.host_port_subcomponent or "", **(relayed or {})})
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def exchange(
        self, method: str, path: str, fields: str, body: bytes | None = None, *, within_s: float
    ) -> Answer:
        """Send one request, and return its answer; ``path`` is encoded, with its query.

        ``fields`` is of `lines`. The answer has ``within_s`` seconds from when the request was sent: to
        connect has its own time, and who waits until others have ended has heard no silence. What changes
        nothing is sent once more where it was lost with a connection that was kept: the server had closed it
        already, most likely (RFC 9112 section 9.3.1).

        Raises:
            TooLong: the answer is longer than any CA's.
            TimeoutError: there is none in time.
            CannotConnect: nothing was sent.
            OSError: there is no answer, or not all of it; `ssl.SSLCertVerificationError` is one.
        """
        async with self._slots:
            length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
            head = f"{method} {self._before_path}{path} HTTP/1.1\r\n{self._fields}{fields}{length}\r\n"
            request = head.encode("ascii") + (body or b"")
            if (kept := self._kept()) is not None:
                try:
                    return await self._ask(kept, request, method, within_s)
                except ConnectionError:
                    if method not in _SAFE:
                        raise
            return await self._ask(await self._connect(), request, method, within_s)

    async def _ask(self, connection: "_Connection", request: bytes, method: str, within_s: float) -> Answer:
        answer = await connection.exchange(request, method=method, within_s=within_s)
        if connection.keeps:
            self._keep(connection)
        return answer

    async def close(self) -> None:
        """Cut all of them, for good: who waits for one, or still connects, ends by `ConnectionError`."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._all):
            connection.abort()
        while self._all:
            await asyncio.sleep(0)  # each ends within the loop's next turns

    def _kept(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.keeps:  # else its end has begun, and takes a few turns of the loop
                return connection
        return None

    def _keep(self, connection: "_Connection") -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_S, self._close_old)

    def _close_old(self) -> None:
        """Close those that nobody needs; one timer for all costs less than one for each exchange."""
        loop = asyncio.get_running_loop()
        for connection in tuple(self._idle):
            if connection.idle_since <= loop.time() - KEEP_S:
                self._idle.remove(connection)
                connection.close()
        self._sweep = loop.call_at(self._idle[0].idle_since + KEEP_S, self._close_old) if self._idle else None

    def _ended(self, connection: "_Connection") -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> "_Connection":
        self._check_open()  # who waited for a slot may come here after the end
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as limit:
                return await (self._direct() if self._proxy is None else self._through(self._proxy))
        except TimeoutError as e:
            if not limit.expired():
                raise
            raise CannotConnect(f"no connection within {CONNECT_TIMEOUT_S:g} s") from e

    async def _direct(self) -> "_Connection":
        return await self._open(self._origin, tls=self._tls() if self._tls is not None else None)

    async def _through(self, proxy: Proxy) -> "_Connection":
        connection = await self._open(proxy.url)
        if self._tls is not None:
            try:
                await self._tunnel(connection, proxy, self._tls())
            except BaseException:
                connection.abort()
                self._ended(connection)  # cut within a handshake, it is not told so by asyncio
                raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise CannotConnect("its connections were closed meanwhile")

    async def _open(self, to: URL, *, tls: ssl.SSLContext | None = None) -> "_Connection":
        try:
            # asyncio's own way loses a socket where it is cancelled just when that is connected.
            connected = await start_connection(await _addresses(to), happy_eyeballs_delay=HAPPY_EYEBALLS_S)
        except OSError as e:
            why = e.strerror if isinstance(e, socket.gaierror) or not e.errno else os.strerror(e.errno)
            what = "cannot connect" if to is self._origin else f"cannot connect to the proxy {to}"
            raise CannotConnect(f"{what}: {why or e}") from e
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self._ended),
            sock=connected,
            ssl=tls,
            server_hostname=_tls_name(to) if tls is not None else None,
        )
        self._all.add(connection)
        try:
            self._check_open()
        except ConnectionError:
            connection.abort()
            raise
        return connection

    async def _tunnel(self, connection: "_Connection", proxy: Proxy, tls: ssl.SSLContext) -> None:
        """Have the proxy connect us (RFC 9110 section 9.3.6)."""
        to = f"{self._origin.host_subcomponent}:{self._origin.port}"
        request = f"CONNECT {to} HTTP/1.1\r\n{lines({'Host': to, **proxy.headers})}\r\n".encode("ascii")
        answer = await connection.exchange(request, method="CONNECT", within_s=CONNECT_TIMEOUT_S)
        if not _opens_tunnel(answer.status):
            raise CannotConnect(f"the proxy {proxy.url} refused: {answer.status} {answer.reason}")
        if not connection.keeps:  # in TLS we speak first: nothing of this is the CA's
            raise CannotConnect(f"the proxy {proxy.url} said more than its answer, or hung up")
        await connection.encrypt(tls, server_hostname=_tls_name(self._origin))


def lines(fields: Mapping[str, str]) -> str:
    """Return the lines of a head that say so."""
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items())


async def _addresses(url: URL) -> Sequence[AddrInfoType]:
    host, port = url.raw_host or "", url.port
    try:  # most proxies and many CAs of one's own are told by address, which needs no hop to a thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _tls_name(url: URL) -> str:
    return (url.raw_host or "").rstrip(".")  # "without a trailing dot" (RFC 6066 section 3)


def _opens_tunnel(status: int) -> bool:
    return _OK <= status < _OK + 100  # "any 2xx" (RFC 9110 section 9.3.6)


class _Connection(asyncio.Protocol):
    """One of them."""

    def __init__(self, ended: "Callable[[_Connection], None]") -> None:
        self._ended = ended
        self._transport: asyncio.Transport
        self._message: _Message | None = None
        self.keeps = False
        self.idle_since = 0.0

    async def exchange(self, request: bytes, *, method: str, within_s: float) -> Answer:
        """Send a request and wait for its answer."""
        loop = asyncio.get_running_loop()
        message = self._message = _Message(loop.create_future(), method=method)
        self.keeps = False
        self._transport.write(request)
        limit = loop.call_later(within_s, message.give_up)
        try:
            answer = await message.whole
        except BaseException:
            self.abort()  # whatever still comes would be taken for the next request's answer
            raise
        finally:
            limit.cancel()
        self._message = None
        self.keeps = message.keeps and not self._transport.is_closing()
        if not self.keeps:
            self.close()
        return answer

    async def encrypt(self, tls: ssl.SSLContext, *, server_hostname: str) -> None:
        """Speak TLS from here on, with whom the proxy has connected us."""
        transport = await asyncio.get_running_loop().start_tls(
            self._transport, self, tls, server_hostname=server_hostname
        )
        if transport is None:  # so asyncio says it where it was cut meanwhile
            raise ConnectionAbortedError("cut within the TLS handshake")
        self._transport = transport

    def close(self) -> None:
        """End it in order."""
        self._transport.close()

    def abort(self) -> None:
        """Cut it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of TCP; not every loop makes asyncio's own

    def data_received(self, data: bytes) -> None:
        if self._message is None:
            self.keeps = False
            self.abort()  # it speaks unasked
        else:
            self._message.feed(data)

    def eof_received(self) -> None:
        self.keeps = False
        if self._message is not None:
            self._message.keeps = False
            self._message.ended = self._is_theirs()

    def _is_theirs(self) -> bool:
        """Whether the other end has said this end in TLS, too: anybody between may make one of TCP."""
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        try:
            return tls is None or not tls.read(1)
        except ssl.SSLError:
            return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(self)
        if self._message is not None:
            self._message.end(error)


class _Message:
    """A response as it comes; methods that begin with ``on_`` are llhttp's calls."""

    def __init__(self, whole: asyncio.Future[Answer], *, method: str) -> None:
        self.whole = whole
        self.keeps = False
        self.ended = False
        self._answer = Answer()
        self._method = method
        self._size = 0
        self._in_head = True
        self._complete = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if self.whole.done():
            self.keeps = False
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as e:
            self.keeps = False  # after the answer, too: what else is there is no answer to anything
            if not self._complete:
                self._fail(ConnectionError(f"it does not speak HTTP/1.1: {e}"))
                return
        if self._in_head and self._size > MAX_HEAD:
            self._fail(TooLong(f"with more than {MAX_HEAD} bytes before its body"))
        elif len(self._answer.body) > MAX_BODY or self._size > 2 * (MAX_HEAD + MAX_BODY):
            self._fail(TooLong(f"with more than {MAX_BODY} bytes"))
        elif self._complete:
            self.whole.set_result(self._answer)

    def end(self, error: Exception | None) -> None:
        """Take it that no more will come: what says no length is complete with it (RFC 9112 section 6.3)."""
        headers = self._answer.headers
        if self.whole.done():
            return
        if (
            error is None
            and self.ended
            and not self._in_head
            and not {"Content-Length", "Transfer-Encoding"} & headers.keys()
        ):
            self.whole.set_result(self._answer)
        else:
            self._fail(error or ConnectionResetError("it hung up before the end of its answer"))

    def give_up(self) -> None:
        """Take it that no more will come in time."""
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)

    def on_message_begin(self) -> None:
        if self._complete:
            self.keeps = False

    def on_status(self, reason: bytes) -> None:
        if not self._complete:
            self._answer.reason += reason.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and not self._complete:  # what comes later is a trailer
            self._answer.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._in_head = False
        self._answer.status = self._parser.get_status_code()
        self.keeps = self._parser.should_keep_alive()
        # llhttp does not know what was asked, and would wait for a body that is not to come.
        if self._method == "CONNECT" and self._answer.status >= _OK:
            self.keeps = _opens_tunnel(self._answer.status)  # whatever it says of version and connection
            self._complete = True
        elif self._method == "HEAD" and self._answer.status >= _OK:
            said = self._answer.headers.get("Connection", "").lower()
            self.keeps = self._parser.get_http_version() == "1.1" and "close" not in said
            self._complete = True

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self.keeps = False
        else:
            self._answer.body += body

    def on_message_complete(self) -> None:
        if self._answer.status < _OK:  # interim: the answer is still to come (RFC 9110 section 15.2)
            self._answer, self._in_head = Answer(), True
        else:
            self._complete = True
