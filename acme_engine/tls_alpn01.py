"""TLS-ALPN-01 (RFC 8737; for addresses RFC 8738): the challenge certificate, its solver, its responder.

It needs port 443 alone: where a proxy has that, it sends what offers ``acme-tls/1`` on to the responder,
which ends TLS itself. The responder says nothing to whoever does not name what is being validated.
"""

import asyncio
import hashlib
import ipaddress
import logging
import ssl
import tempfile
from base64 import urlsafe_b64encode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from acme_engine.errors import CannotListen
from acme_engine.lookup import Lookup
from acme_engine.messages import Challenge, Identifier
from acme_engine.solver import TOKEN_TTL_S, TokenReader, TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable

ALPN = "acme-tls/1"
ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""id-pe-acmeIdentifier (RFC 8737 section 3)."""

DEADLINE_S = 5.0
"""From the first moment of a connection to its end, however slowly either side goes."""

MAX_CLIENT_HELLO = 16_384
MAX_CONNECTIONS = 512
"""Beyond these the oldest that has said nothing yet goes, as with HTTP-01."""

_DER_OCTET_STRING_OF_32 = b"\x04\x20"

_log = logging.getLogger(__name__)


def server_name(identifier: Identifier) -> str:
    """Return the SNI by which a CA asks: the name, or an address's reverse name (RFC 8738 section 6)."""
    if identifier.type == "ip":
        return ipaddress.ip_address(identifier.value).reverse_pointer
    return identifier.value.lower()


def store_key(name: str) -> str:
    """Return under which token an SNI's answer is kept: a CA names the server, and no token."""
    digest = hashlib.sha256(f"tls-alpn-01 {name.lower()}".encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def challenge_certificate(name: str, key_authorization: str) -> bytes:
    """Return the certificate that answers for an SNI, self-signed, and its key, as PEM (section 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    now = datetime.now(UTC)
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(ACME_IDENTIFIER, _DER_OCTET_STRING_OF_32 + digest), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class TlsAlpn01Solver:
    """TLS-ALPN-01: an answer in a store that the responders read."""

    challenge_type = "tls-alpn-01"
    patience_s = 0.0

    def __init__(self, store: TokenStore) -> None:
        self._store = store

    async def present(self, identifier: Identifier, _challenge: Challenge, key_authorization: str) -> None:
        """Let the responders know what to answer for the name."""
        await self._store.put(store_key(server_name(identifier)), key_authorization, ttl_s=TOKEN_TTL_S)

    async def ready(self, _identifier: Identifier, _challenge: Challenge, _key_authorization: str) -> None:
        """Return at once: what is put is found."""

    async def cleanup(self, identifier: Identifier, _challenge: Challenge, _key_authorization: str) -> None:
        """Let the responders forget the name."""
        await self._store.delete(store_key(server_name(identifier)))


class TlsAlpn01Responder:
    """Ends TLS for validations on one address, and for nothing else.

    From `start` to `stop`, or in ``async with``.
    """

    def __init__(self, store: TokenReader, *, host: str, port: int, deadline_s: float = DEADLINE_S) -> None:
        """Answer from ``store`` on ``host:port``; port 0 takes a free one."""
        self.on_asked: Callable[[str], None] = lambda _how: None
        """Told of each ClientHello, by how it ended: answered, unknown, unanswered (the store)."""

        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._lookup = Lookup(store)
        self._connections: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            CannotListen: naming the address.
        """
        if self._server is not None:
            raise RuntimeError("the TLS-ALPN-01 responder listens already")  # the first port would stay open
        try:
            self._server = await asyncio.start_server(
                self._connected, self._host, self._port, limit=MAX_CLIENT_HELLO
            )
        except OSError as e:
            raise CannotListen(
                f"the TLS-ALPN-01 responder cannot listen on {self._host}:{self._port}: {e.strerror or e}"
            ) from e
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening and cut what is open; safe to call twice."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
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

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio makes one for each connection
        if len(self._connections) >= MAX_CONNECTIONS:
            silent = next(iter(self._silent), None)
            if silent is None:
                writer.transport.abort()
                return
            del self._silent[silent]
            silent.cancel()
        self._connections.add(task)
        self._silent[task] = None
        try:
            async with asyncio.timeout(self._deadline_s):
                hello = await _ClientHello.read(reader)
                self._silent.pop(task, None)
                await self._answer(hello, reader, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as e:  # ssl.SSLError is an OSError
            _log.debug("challenge.unanswered", extra={"error": type(e).__name__})
        except asyncio.CancelledError:
            pass  # we are stopping, or others need the place
        finally:
            writer.transport.abort()
            self._silent.pop(task, None)
            self._connections.discard(task)

    async def _answer(
        self, hello: "_ClientHello", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            known = None if hello.name is None else await self._lookup.get(store_key(hello.name))
        except Exception:
            self.on_asked("unanswered")
            raise
        if hello.name is None or known is None:
            self.on_asked("unknown")
            writer.write(hello.refusal)
            return
        context = _context()
        with tempfile.NamedTemporaryFile() as pem:  # the ssl module takes files alone; it is no secret
            pem.write(challenge_certificate(hello.name, known))
            pem.flush()
            context.load_cert_chain(pem.name)
        await _handshake(context, hello.raw, reader, writer)
        self.on_asked("answered")


class _ClientHello:
    """The first flight of a client: whom it names, and how it is refused."""

    def __init__(self) -> None:
        self.raw = b""
        self.name: str | None = None
        self.refusal = b""
        self._heard = False

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> "_ClientHello":
        """Read one.

        Raises:
            OSError: what came is no ClientHello, or longer than one is.
        """
        hello = cls()
        while not hello._heard:
            data = await reader.read(MAX_CLIENT_HELLO)
            hello.raw += data
            if not data or len(hello.raw) > MAX_CLIENT_HELLO:
                raise ConnectionAbortedError
            hello._parse()
        return hello

    def _parse(self) -> None:
        """Let OpenSSL read it as far as the name, and make it say no: that answer is kept."""
        context = _context()
        context.sni_callback = self._named
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(self.raw)
        connection = context.wrap_bio(incoming, outgoing, server_side=True)
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError:
            if not self._heard:
                raise
        self.refusal = outgoing.read()

    def _named(self, _connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        self._heard = True
        self.name = name
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


async def _handshake(
    context: ssl.SSLContext, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Go through one handshake that began with these bytes.

    Raises:
        OSError: it failed.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(first)
    connection = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            data = await reader.read(MAX_CLIENT_HELLO)
            if not data:
                raise ConnectionAbortedError from None
            incoming.write(data)
        else:
            break
    if connection.selected_alpn_protocol() != ALPN:
        raise ConnectionAbortedError
    with suppress(ssl.SSLWantReadError):
        connection.unwrap()
    writer.write(outgoing.read())


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    return context


def _general_name(name: str) -> x509.GeneralName:
    """Return what a reverse name or a name stands for."""
    if name.endswith(".in-addr.arpa") and len(octets := name.split(".")[:-2]) == 4:  # noqa: PLR2004 - IPv4
        with suppress(ValueError):
            return x509.IPAddress(ipaddress.ip_address(".".join(reversed(octets))))
    if name.endswith(".ip6.arpa") and len(nibbles := name.split(".")[:-2]) == 32:  # noqa: PLR2004 - IPv6
        with suppress(ValueError):
            return x509.IPAddress(ipaddress.ip_address(int("".join(reversed(nibbles)), 16)))
    return x509.DNSName(name)
