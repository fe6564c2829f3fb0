"""The probe: a TLS handshake that shows which leaf a listener serves. The only proof there is.

A fresh session each time: a resumed one would show what was served before.

A listener can serve leaves of several key types side by side, and shows each client one of them. So where an
ordinary handshake shows another leaf than the one that is looked for, clients that do not take keys of that
type ask as well: each leaf is proved by its own type.
"""

import asyncio
import errno
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final

from acme_engine.names import MAX_NAME
from sds_server.errors import CallerError
from sds_server.targets import handshake, handshake12, quic, tls13
from sds_server.targets.tls13 import HandshakeFailed, KeyKind

TIMEOUT_S: Final = 3.0
MAX_PORT: Final = 65535
BELOW_WILDCARD: Final = "certvoy-probe"
"""No server name is a wildcard (RFC 6066 section 3): a name that it covers is asked for instead."""

PROXY_HEADER: Final = b"\r\n\r\n\0\r\nQUIT\n" + b"\x20\0\0\0"
"""Version 2 of the PROXY protocol: LOCAL, UNSPEC, no addresses (haproxy's proxy-protocol.txt, section 2.2).

"The connection was established on purpose by the proxy without being relayed", as health checks are.
"""

_NOBODY: Final = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_HUNG_UP: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a TLS listener: its ``host:port``, and whether it wants the PROXY protocol before TLS.

    ``http3``: another one is beside it, on the same port over UDP; ``quic``: this is the way to that one.
    Functions take an address alone as well: most listeners want nothing else.
    """

    address: str
    _: KW_ONLY
    proxy_protocol: bool = False
    http3: bool = False
    quic: bool = False

    @classmethod
    def of(cls, address: "Way | str") -> "Way":
        """Return the way to an address."""
        return address if isinstance(address, Way) else cls(address)

    def at(self, place: str) -> "Way":
        """Return the same to one of the places that the address leads to."""
        return replace(self, address=place)

    def each(self) -> "Sequence[Way]":
        """Return the ways to all that is served there: over TCP, and where there is HTTP/3 over QUIC."""
        over_tcp = replace(self, http3=False)
        return [over_tcp, Way(self.address, quic=True)] if self.http3 else [over_tcp]

    def __str__(self) -> str:
        return f"{self.address} over QUIC" if self.quic else self.address


_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""What OpenSSL makes, from version to version, of the beginning of an answer in HTTP."""


class ProbeFailed(Exception):
    """No leaf was seen; the message says why, in words for an operator."""


class NobodyThere(ProbeFailed):
    """Nobody listens there, or there is no way there from here: nobody is served anything."""


class HungUp(ProbeFailed):
    """It ended the handshake."""


def failure(address: Way | str, words: object, error: Exception) -> ProbeFailed:
    """Return the error of an ``address`` that could not be asked."""
    if isinstance(error, OSError) and error.errno in _NOBODY:
        # In asyncio's own words it is a "connect call" with a tuple, which does not say what happened.
        return NobodyThere(f"{address}: {os.strerror(error.errno)}")
    hung_up = isinstance(error, (*_HUNG_UP, ssl.SSLError))
    return (HungUp if hung_up else ProbeFailed)(f"{address}: {words}")


async def served_fingerprint(
    address: Way | str, server_name: str, *, wanted: str | None = None, before: str | None = None
) -> str:
    """Return the lower-case hex SHA-256 of the leaf that ``address`` (``host:port``) serves for an SNI.

    Where leaves of several key types are served: that of ``wanted``, else of ``before``, if one of them is;
    else the leaf that an ordinary client is shown. Without ``wanted`` an ordinary client's.

    The chain is not verified: which leaf is served is the question, and the gate has answered the rest.

    Raises:
        ProbeFailed: no connection, no handshake, or no answer within 3 s.
    """
    first: str | None = None
    async for leaf in served_leaves(address, server_name):
        fingerprint = hashlib.sha256(leaf).hexdigest()
        if wanted is None or fingerprint in {wanted, before}:
            return fingerprint
        first = first or fingerprint
    assert first is not None  # noqa: S101 - one is shown, or the probe has failed
    return first


async def served_leaves(address: Way | str, server_name: str) -> AsyncIterator[bytes]:
    """Give the leaves (DER) that a listener serves for an SNI, first the one that an ordinary client gets.

    Each next one is asked for by a handshake of its own, as a client that takes no key of a type that was
    shown: in TLS 1.3, or in TLS 1.2 where a server speaks no other.

    Raises:
        ProbeFailed: as `served_fingerprint`; only of the first.
    """
    leaf = await served_leaf(address, server_name)
    others = set(KeyKind)
    while True:
        yield leaf
        kind = tls13.kind_of(leaf)
        if kind not in others:
            return  # of a type of its own, or chosen against what the client takes
        others.discard(kind)
        try:
            leaf = await _of_kinds(address, server_name, others)
        except ProbeFailed:
            return  # there is none of another type


async def served_leaf(address: Way | str, server_name: str) -> bytes:
    """Return the leaf (DER) that an ordinary client is shown. Errors as of `served_fingerprint`."""
    if Way.of(address).quic:
        return await _over_quic(address, server_name, [*KeyKind])
    try:
        return await _leaf(address, server_name, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except HungUp:
        leaf = await _before_asking(address, server_name)
        if leaf is None:
            raise
        return leaf


async def _before_asking(address: Way | str, server_name: str) -> bytes | None:
    """Return what is shown by a listener of TLS 1.2 that ends a handshake without a client certificate."""
    try:
        async with asyncio.timeout(TIMEOUT_S), _connected(address) as (reader, writer):
            return await handshake12.shown(reader, writer, server_name)
    except (HandshakeFailed, OSError):  # a TimeoutError is one
        return None


async def _of_kinds(address: Way | str, server_name: str, kinds: Collection[KeyKind]) -> bytes:
    """Return the leaf that is shown to a client which takes these types of keys only."""
    if Way.of(address).quic:
        return await _over_quic(address, server_name, kinds)
    try:
        async with asyncio.timeout(TIMEOUT_S), _connected(address) as (reader, writer):
            return (await handshake.shake(reader, writer, server_name, kinds)).leaf
    except HandshakeFailed as e:
        if not e.only_older:
            raise ProbeFailed(f"{address}: {e}") from None
    except (OSError, TimeoutError) as e:
        raise failure(address, e, e) from None
    return await _of_kinds_before_1_3(address, server_name, kinds)


async def _over_quic(address: Way | str, server_name: str, kinds: Collection[KeyKind]) -> bytes:
    host, port = split(Way.of(address).address)
    try:
        return (await quic.shake(host, port, server_name, kinds, within_s=TIMEOUT_S)).leaf
    except HandshakeFailed as e:
        raise ProbeFailed(f"{address}: {e}") from None
    except OSError as e:
        raise failure(address, e.strerror or e, e) from None
    except ValueError as e:  # a host or a name that is no DNS name
        raise ProbeFailed(f"{address}: {e}") from None


async def _of_kinds_before_1_3(address: Way | str, server_name: str, kinds: Collection[KeyKind]) -> bytes:
    """In TLS 1.2 the cipher suite says how the server signs, though not of which curve its key is."""
    shown = {_signed_by(kind) for kind in KeyKind if kind not in kinds}
    left = {_signed_by(kind) for kind in kinds} - shown
    if not left:
        raise ProbeFailed(f"{address}: in TLS 1.2 there is no other type of key to ask for")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(sorted(left)))
    return await _leaf(address, server_name, context)


def _signed_by(kind: KeyKind) -> str:
    return "aRSA" if kind is KeyKind.RSA else "aECDSA"


async def _leaf(address: Way | str, server_name: str, context: ssl.SSLContext) -> bytes:
    """Make one handshake of Python's ssl."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(TIMEOUT_S), _connected(address) as (_, writer):
            await writer.start_tls(context, server_hostname=server_name)
            leaf: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return leaf
    except TimeoutError:
        raise ProbeFailed(f"{address} did not finish a TLS handshake within {TIMEOUT_S:g} s") from None
    except OSError as e:  # ssl.SSLError is one
        raise failure(address, _why(address, e), e) from None
    except ValueError as e:  # a host that is no DNS name: the resolver's codec refuses it
        raise ProbeFailed(f"{address}: {e}") from None


@asynccontextmanager
async def _connected(
    address: Way | str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, up to where TLS begins."""
    way = Way.of(address)
    host, port = split(way.address)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if way.proxy_protocol:
            writer.write(PROXY_HEADER)
        yield reader, writer
    finally:
        # Not a polite close: its wait would count against the next probe.
        writer.transport.abort()


def _why(address: Way | str, error: OSError) -> str:
    """Return why there was no handshake: it may be for the PROXY protocol, if one side alone speaks it."""
    words = error.strerror or str(error) or "it hung up in the handshake"
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        words = "what it answers is no TLS"  # OpenSSL's words are of a version number
    if Way.of(address).proxy_protocol and isinstance(error, (*_HUNG_UP, ssl.SSLError)):
        return f"{words}, after a header of the PROXY protocol: does it want none?"
    if isinstance(error, _HUNG_UP):  # it leaves no words, or the system's
        return f"{words}; if it wants the PROXY protocol: --proxy-protocol"
    return words


def covered(domain: str) -> str:
    """Return a name to ask for: the DNS name itself, or one below a wildcard, no longer than names may be."""
    room = MAX_NAME - len(domain) + 1
    return domain.replace("*", BELOW_WILDCARD[:room].rstrip("-"), 1)


def split(address: str, *, what: str = "probe address") -> tuple[str, int]:
    """Read ``host:port``; IPv6 in brackets. ``what`` it is, for the error.

    Raises:
        CallerError: it is neither.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[")
    if not bare or (":" in bare) != bracketed or not port.isdecimal() or not 0 < int(port) <= MAX_PORT:
        raise CallerError(
            f'{what}: must be host:port, got "{address}"',
            hint="write edge-1.example.com:443, or [::1]:443",
        )
    return bare, int(port)
