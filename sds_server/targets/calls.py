"""Calls of agents: one request to an endpoint that an operator has named, which may be anybody's by now.

Every address of its host is judged before one of them is connected to, and that very address is: a name that
is resolved a second time may say something else. Nothing is said before the agent has shown that it is who
the target is. No redirect is followed, and an answer has an end.
"""

import asyncio
import http.client
import io
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Final

from cryptography import x509

from sds_server.clock import Clock
from sds_server.errors import CallerError
from sds_server.model import Identity
from sds_server.targets.address import Network, PushUrl, parse, refusal

RESOLVE_S: Final = 5.0
CONNECT_S: Final = 5.0
HANDSHAKE_S: Final = 5.0
TOTAL_S: Final = 60.0
"""An agent checks, reloads and looks before it answers."""

ANSWER_MAX: Final = 64 * 1024
TRIED_MAX: Final = 4
"""Addresses of one name that are tried; all are judged."""

RETRY_AFTER_MAX_S: Final = 3600
READ_BYTES: Final = 16 * 1024

Identify = Callable[[bytes], "Shown"]
"""Reads a certificate (PEM): who its holder is, if that is believed. Raises CallerError."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Who an agent has shown to be; ``enrolled`` by a credential of our own CA, which TLS has not checked."""

    identity: Identity
    enrolled: bool


class Step(StrEnum):
    """How far a call came."""

    ADDRESS = "address"
    CONNECTION = "connection"
    IDENTITY = "identity"
    ANSWER = "answer"


class CallFailed(Exception):
    """There is no answer of the agent; the message says why, in words for an operator."""

    def __init__(self, step: Step, message: str, *, hint: str, sent: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.hint = hint
        self.sent = sent
        """The request had left."""


class Impostor(CallFailed):
    """Somebody else answers there."""

    def __init__(self, message: str) -> None:
        super().__init__(
            Step.IDENTITY, message, hint="find out who listens there; the bundle was not sent to it"
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent answered."""

    status: int
    body: bytes = field(repr=False)
    retry_after_s: float | None = None


class Agents:
    """Calls agents, with the control plane's own certificate, and believes those of its own CA alone."""

    def __init__(
        self,
        *,
        allowed: Sequence[Network],
        context: Callable[[], Awaitable[ssl.SSLContext]],
        identify: Identify,
        clock: Clock,
        total_s: float = TOTAL_S,
    ) -> None:
        """``allowed`` are the ranges of `push.allow`; ``context`` is TLS with our own certificate."""
        self._allowed = tuple(allowed)
        self._context = context
        self._identify = identify
        self._clock = clock
        self._total_s = total_s

    def check(self, url: str) -> PushUrl:
        """Read a push URL, and refuse it now where that needs no resolver.

        Raises:
            CallerError: it is none, or its address may not be connected to.
        """
        parsed = parse(url)
        if parsed.address is not None and (why := refusal(parsed.address, self._allowed)) is not None:
            raise CallerError(f"push: {why}", hint=_LIST_HINT)
        return parsed

    async def call(self, url: str, identity: Identity, method: str, path: str, *, body: bytes = b"") -> Reply:
        """Ask the agent of this identity once, and return its answer, whatever its status but a redirect.

        Raises:
            CallFailed: there is none.
            Impostor: somebody else is there; nothing was said to them.
        """
        try:
            parsed = parse(url)
        except CallerError as e:
            raise CallFailed(Step.ADDRESS, e.message, hint=e.next_step) from None
        sent = False
        try:
            async with asyncio.timeout(self._total_s):
                context = await self._context()
                channel = await self._connect(parsed, await self._addresses(parsed))
                reader, writer = await _handshake(parsed, channel, context)
                try:
                    self._check_shown(parsed, identity, writer)
                    sent = True
                    writer.write(_request(parsed, method, path, body))
                    return await _answer(parsed, reader)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise CallFailed(
                Step.ANSWER,
                f"{parsed} did not answer within {self._total_s:g} s",
                hint="see the agent's log, and whether its program reloads",
                sent=sent,
            ) from None
        except CallFailed as e:
            e.sent = sent
            raise

    async def _addresses(self, url: PushUrl) -> Sequence[tuple[socket.AddressFamily, Any]]:
        """Return what to connect to, all of it judged."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise CallFailed(
                Step.ADDRESS, f"{url.host} was not resolved within {RESOLVE_S:g} s", hint=_NAME_HINT
            ) from None
        except (OSError, UnicodeError) as e:
            why = getattr(e, "strerror", None) or e
            raise CallFailed(Step.ADDRESS, f"{url.host}: {why}", hint=_NAME_HINT) from None
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for _, address in addresses:
            if (why := refusal(ip_address(address[0]), self._allowed)) is not None:
                raise CallFailed(Step.ADDRESS, f"{url.host}: {why}", hint=_LIST_HINT)
        return addresses

    async def _connect(
        self, url: PushUrl, addresses: Sequence[tuple[socket.AddressFamily, Any]]
    ) -> socket.socket:
        loop = asyncio.get_running_loop()
        why = "it has no address"
        try:
            async with asyncio.timeout(CONNECT_S):
                for family, address in addresses[:TRIED_MAX]:
                    channel = socket.socket(family, socket.SOCK_STREAM)
                    channel.setblocking(False)  # noqa: FBT003 - the standard library's
                    try:
                        await loop.sock_connect(channel, address)
                    except OSError as e:
                        channel.close()
                        why = e.strerror or str(e)
                    except BaseException:
                        channel.close()
                        raise
                    else:
                        return channel
        except TimeoutError:
            why = f"no connection within {CONNECT_S:g} s"
        raise CallFailed(Step.CONNECTION, f"{url}: {why}", hint=_CONNECT_HINT)

    def _check_shown(self, url: PushUrl, identity: Identity, writer: asyncio.StreamWriter) -> None:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            shown = self._identify(ssl.DER_cert_to_PEM_cert(der).encode())
        except (CallerError, ValueError) as e:
            raise Impostor(f"{url} is not {identity}: {e}") from None
        if not shown.enrolled or shown.identity != identity:
            raise Impostor(f"{url} is not {identity}: it is {shown.identity}")
        certificate, now = x509.load_der_x509_certificate(der), self._clock.now()
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise CallFailed(
                Step.IDENTITY,
                f"{url}: the credential of {identity} ended at {certificate.not_valid_after_utc:%FT%TZ}",
                hint=f"see why `certvoy agent` there does not renew it; it is {now:%FT%TZ} here",
            )


_NAME_HINT: Final = "correct the name, or the resolver of this machine"
_LIST_HINT: Final = "push to another address, or list its range under `push.allow` of the configuration"
_CONNECT_HINT: Final = "is `certvoy agent` there, with `listen:`, and no firewall between?"
_TLS_HINT: Final = "is it `certvoy agent` of this control plane that listens there?"


async def _handshake(
    url: PushUrl, channel: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(
            sock=channel,
            ssl=context,
            server_hostname=url.host,
            ssl_handshake_timeout=HANDSHAKE_S,
            limit=ANSWER_MAX,
        )
    except (OSError, ValueError) as e:  # ssl.SSLError is an OSError; ValueError: a name that no TLS has
        channel.close()
        raise CallFailed(Step.CONNECTION, f"{url}: no TLS handshake: {_words(e)}", hint=_TLS_HINT) from None
    except BaseException:
        channel.close()
        raise


def _request(url: PushUrl, method: str, path: str, body: bytes) -> bytes:
    host = str(url).removeprefix("https://")
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


async def _answer(url: PushUrl, reader: asyncio.StreamReader) -> Reply:
    """Read to the end of the connection, which is at most `ANSWER_MAX` away."""
    raw = b""
    try:
        while chunk := await reader.read(READ_BYTES):
            raw += chunk
            if len(raw) > ANSWER_MAX:
                raise CallFailed(
                    Step.ANSWER, f"{url} answered with more than {ANSWER_MAX >> 10} KiB", hint=_TLS_HINT
                )
    except OSError as e:
        raise CallFailed(Step.ANSWER, f"{url} hung up: {_words(e)}", hint=_TLS_HINT) from None
    try:
        response = http.client.HTTPResponse(_Read(raw))  # type: ignore[arg-type]
        response.begin()
        status, headers, body = response.status, dict(response.getheaders()), response.read()
    except (http.client.HTTPException, ValueError, AttributeError) as e:
        raise CallFailed(
            Step.ANSWER, f"{url} did not answer in HTTP: {type(e).__name__}", hint=_TLS_HINT
        ) from None
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's redirects
        raise CallFailed(
            Step.ANSWER,
            f"{url} answered with a redirect (HTTP {status}), which is not followed",
            hint="name the agent's own address: `certvoy targets add NAME --push URL`",
        )
    return Reply(status, body, _retry_after(headers))


class _Read:
    """What has been read already, as the standard library's parser takes it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110 section 10.2.3), at most an hour; a date is not read."""
    said = {name.lower(): value for name, value in headers.items()}.get("retry-after", "").strip()
    return min(float(said), RETRY_AFTER_MAX_S) if said.isascii() and said.isdecimal() else None


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error) or "it hung up"
