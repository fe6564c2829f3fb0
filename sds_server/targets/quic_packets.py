"""QUIC's packets and frames, as far as a handshake goes: read, written, protected; pure.

RFC 9000 sections 16 to 19, and RFC 9001 section 5.
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import ECB

from sds_server.targets.tls13 import SUITES, Suite, expand, sized

VERSION: Final = 1
NEGOTIATION: Final = 0
"""The version of a packet that lists those which a server speaks."""

TAG: Final = 16
NUMBER: Final = 4
"""Bytes of a packet's number in what we send; others may send fewer."""

CRYPTO_HEADER: Final = 5
"""Bytes of a CRYPTO frame before its data, at most, of what fits into a datagram."""

ID_MAX: Final = 20
"""Of a connection ID: longer ones are of no version 1 (RFC 9000 section 17.2)."""

_LONG: Final = 0x80
_SAMPLE: Final = 16
_SUITE: Final = SUITES[0x1301]
"""Of Initial packets, whatever is negotiated later."""

_SALT: Final = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
_RETRY: Final = AESGCM(bytes.fromhex("be0c690b9f66575a1d766b54e368c84e"))
_RETRY_NONCE: Final = bytes.fromhex("461599d35d632bf2239825bb")


class Kind(IntEnum):
    """Types of packets with a long header."""

    INITIAL = 0
    EARLY = 1
    HANDSHAKE = 2
    RETRY = 3


class FrameKind(IntEnum):
    """Types of frames that a handshake has."""

    PADDING = 0x00
    PING = 0x01
    ACK = 0x02
    ACK_ECN = 0x03
    CRYPTO = 0x06
    CLOSE = 0x1C
    CLOSE_APPLICATION = 0x1D


ERRORS: Final[Mapping[int, str]] = {
    0x00: "NO_ERROR",
    0x01: "INTERNAL_ERROR",
    0x02: "CONNECTION_REFUSED",
    0x03: "FLOW_CONTROL_ERROR",
    0x04: "STREAM_LIMIT_ERROR",
    0x05: "STREAM_STATE_ERROR",
    0x06: "FINAL_SIZE_ERROR",
    0x07: "FRAME_ENCODING_ERROR",
    0x08: "TRANSPORT_PARAMETER_ERROR",
    0x09: "CONNECTION_ID_LIMIT_ERROR",
    0x0A: "PROTOCOL_VIOLATION",
    0x0B: "INVALID_TOKEN",
    0x0C: "APPLICATION_ERROR",
    0x0D: "CRYPTO_BUFFER_EXCEEDED",
    0x0E: "KEY_UPDATE_ERROR",
    0x0F: "AEAD_LIMIT_REACHED",
    0x10: "NO_VIABLE_PATH",
}
"""Why a peer closes (RFC 9000 section 20.1)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet with a long header, protected still. ``at``: where its number begins, or what a Retry has."""

    kind: Kind
    version: int
    destination: bytes
    source: bytes
    data: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Frame:
    """``offset`` and ``data`` are of CRYPTO, ``code`` is why a peer closes."""

    kind: FrameKind
    offset: int = 0
    data: bytes = b""
    code: int = 0


class Keys:
    """What protects the packets of one direction at one level."""

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._aead = suite.aead(expand(suite, secret, "quic key", b"", suite.key_bytes))
        self._iv = int.from_bytes(expand(suite, secret, "quic iv", b"", 12))
        self._hp = expand(suite, secret, "quic hp", b"", suite.key_bytes)
        self._stream = suite.aead is ChaCha20Poly1305

    def mask(self, sample: bytes) -> bytes:
        """Return what hides the first byte and the number of a packet (RFC 9001 section 5.4)."""
        if self._stream:
            return Cipher(ChaCha20(self._hp, sample), None).encryptor().update(bytes(5))
        # One block alone, which is what a mode would be about: so the section says.
        return Cipher(AES(self._hp), ECB()).encryptor().update(sample)[:5]  # noqa: S305

    def seal(self, header: bytes, number: int, payload: bytes) -> bytes:
        """Return the packet; its header ends with its number."""
        size = (header[0] & 3) + 1
        sealed = self._aead.encrypt(self._nonce(number), payload, header)
        mask = self.mask(sealed[NUMBER - size :][:_SAMPLE])
        return _masked(header, len(header) - size, size, mask) + sealed

    def open(self, packet: bytes, at: int, largest: int) -> tuple[int, bytes]:
        """Return number and payload of a packet whose number begins ``at``, after the ``largest`` so far.

        Raises:
            InvalidTag: it is nobody's who has these keys.
        """
        sample = packet[at + NUMBER :][:_SAMPLE]
        if len(sample) < _SAMPLE:
            raise InvalidTag
        mask = self.mask(sample)
        size = ((packet[0] ^ mask[0]) & 3) + 1
        header = _masked(packet[: at + size], at, size, mask)
        number = _number(int.from_bytes(header[at:]), size, largest)
        return number, self._aead.decrypt(self._nonce(number), packet[at + size :], header)

    def _nonce(self, number: int) -> bytes:
        return (self._iv ^ number).to_bytes(12)


def initial_keys(destination: bytes) -> tuple[Keys, Keys]:
    """Return the client's and the server's, of the connection ID that the client chose (section 5.2)."""
    secret = hmac.digest(_SALT, destination, _SUITE.hash)
    client, server = (Keys(_SUITE, expand(_SUITE, secret, f"{who} in", b"", 32)) for who in WHO)
    return client, server


WHO: Final = ("client", "server")


def _masked(header: bytes, at: int, size: int, mask: bytes) -> bytes:
    """Hide the first byte and the number of a header, or show them."""
    first = header[0] ^ mask[0] & (0x0F if header[0] & _LONG else 0x1F)
    number = bytes(a ^ b for a, b in zip(header[at:], mask[1 : size + 1], strict=True))
    return bytes([first]) + header[1:at] + number


def _number(sent: int, size: int, largest: int) -> int:
    """Return the number that is nearest to the next expected one (RFC 9000 section A.3)."""
    window, expected = 1 << 8 * size, largest + 1
    number = expected & -window | sent
    if number <= expected - window // 2:
        return number + window
    if number > expected + window // 2 and number >= window:
        return number - window
    return number


def packets(datagram: bytes) -> Iterator[Packet]:
    """Read the packets with a long header that share a datagram, up to one that has none.

    Raises:
        ValueError, LookupError: what follows is no packet.
    """
    while datagram and datagram[0] & _LONG:
        packet = _packet(datagram)
        yield packet
        datagram = datagram[len(packet.data) :]


def _packet(data: bytes) -> Packet:
    kind, version = Kind(data[0] >> 4 & 3), int.from_bytes(data[1:5])
    destination, at = _taken(data, 6, data[5])
    source, at = _taken(data, at + 1, data[at])
    if version != VERSION or kind is Kind.RETRY:
        return Packet(kind, version, destination, source, data, at)
    if len(source) > ID_MAX:
        raise ValueError("its connection ID is too long")
    if kind is Kind.INITIAL:  # a server's token is none, and ours to ignore
        size, at = _varint(data, at)
        _, at = _taken(data, at, size)
    size, at = _varint(data, at)
    _, end = _taken(data, at, size)
    return Packet(kind, version, destination, source, data[:end], at)


def versions(packet: Packet) -> Iterable[int]:
    """Return what the server speaks, by its Version Negotiation (section 17.2.1)."""
    listed = packet.data[packet.at :]
    return [int.from_bytes(listed[at : at + 4]) for at in range(0, len(listed), 4)]


def retry_token(packet: Packet, original: bytes) -> bytes:
    """Return the token of a Retry that answers a packet to the connection ID ``original``.

    Raises:
        InvalidTag: it is of nobody who has seen that packet (RFC 9001 section 5.8).
    """
    body, tag = packet.data[:-TAG], packet.data[-TAG:]
    if not hmac.compare_digest(tag, retry_tag(body, original)):
        raise InvalidTag
    return body[packet.at :]


def retry_tag(body: bytes, original: bytes) -> bytes:
    """Return what a Retry ends with."""
    return _RETRY.encrypt(_RETRY_NONCE, b"", sized(1, original) + body)


def header(kind: Kind, destination: bytes, source: bytes, *, token: bytes = b"") -> bytes:
    """Return the beginning of a long header, up to where its length is said."""
    first = bytes([0xC0 | kind << 4 | NUMBER - 1])
    ids = sized(1, destination) + sized(1, source)
    return first + VERSION.to_bytes(4) + ids + (varint(len(token)) + token if kind is Kind.INITIAL else b"")


def frames(payload: bytes) -> Iterator[Frame]:
    """Read the frames of a packet of a handshake, without its padding.

    Raises:
        ValueError, LookupError: there is another than a handshake may have (section 12.4), or half of one.
    """
    at = 0
    while at < len(payload):
        kind, at = FrameKind(payload[at]), at + 1
        match kind:
            case FrameKind.PADDING:
                continue
            case FrameKind.PING:
                yield Frame(kind)
            case FrameKind.ACK | FrameKind.ACK_ECN:
                at = _after_ack(payload, at, kind)
                yield Frame(kind)
            case FrameKind.CRYPTO:
                offset, at = _varint(payload, at)
                size, at = _varint(payload, at)
                data, at = _taken(payload, at, size)
                yield Frame(kind, offset, data)
            case FrameKind.CLOSE | FrameKind.CLOSE_APPLICATION:
                code, at = _varint(payload, at)
                if kind is FrameKind.CLOSE:
                    _, at = _varint(payload, at)  # by which type of frame
                size, at = _varint(payload, at)
                _, at = _taken(payload, at, size)
                yield Frame(kind, code=code)


def _after_ack(payload: bytes, at: int, kind: FrameKind) -> int:
    for _ in ("largest", "delay"):
        _, at = _varint(payload, at)
    ranges, at = _varint(payload, at)
    for _ in range(1 + 2 * ranges + (3 if kind is FrameKind.ACK_ECN else 0)):
        _, at = _varint(payload, at)
    return at


def crypto(offset: int, data: bytes) -> bytes:
    """Return a CRYPTO frame."""
    return varint(FrameKind.CRYPTO) + varint(offset) + varint(len(data)) + data


def ack(numbers: Iterable[int]) -> bytes:
    """Return an ACK frame for the packets of these numbers, of which there is one."""
    ranges = list[tuple[int, int]]()
    for number in sorted(numbers, reverse=True):
        if ranges and ranges[-1][0] == number + 1:
            ranges[-1] = number, ranges[-1][1]
        else:
            ranges.append((number, number))
    (low, high), *others = ranges
    frame = varint(FrameKind.ACK) + varint(high) + varint(0) + varint(len(others)) + varint(high - low)
    for first, last in others:
        frame += varint(low - last - 2) + varint(last - first)
        low = first
    return frame


def close() -> bytes:
    """Return a CONNECTION_CLOSE frame of who has all that he wanted: NO_ERROR, by no frame, no reason."""
    return varint(FrameKind.CLOSE) + bytes(3)


def varint(number: int) -> bytes:
    """Return a number of up to 62 bits in as few bytes as it takes (section 16)."""
    for prefix, size in enumerate((1, 2, 4, 8)):
        if number < 1 << 8 * size - 2:
            return (number | prefix << 8 * size - 2).to_bytes(size)
    raise ValueError(number)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    taken, end = _taken(data, at, 1 << (data[at] >> 6))
    return int.from_bytes(taken) & (1 << 8 * len(taken) - 2) - 1, end


def _taken(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise ValueError("it is cut off")
    return data[at:end], end
