"""A QUIC handshake by a client that takes some types of keys only, and shows what it was given.

What is served over HTTP/3 is of a listener of its own, which takes its certificate by itself: nothing that is
seen over TCP proves it. So this is the least of a QUIC client that can look: version 1
(RFC 9000, RFC 9001), the messages of `tls13`, its end, and a close, so that the server keeps nothing. No
stream is opened, and nothing but the handshake is read.
"""

import asyncio
import os
from collections.abc import Collection, Sequence
from typing import Final, cast

from cryptography.exceptions import InvalidTag

from sds_server.targets import quic_packets, tls13
from sds_server.targets.quic_packets import CRYPTO_HEADER, NUMBER, TAG, FrameKind, Keys, Kind, Packet, varint
from sds_server.targets.tls13 import BROKEN, HANDSHAKE_MAX, HandshakeFailed, KeyKind, Shown, sized

RESEND_S: Final = 0.2
"""How long an answer is waited for before we say it again; then twice as long, each time."""

DATAGRAM: Final = 1200
"""Bytes of each datagram with an Initial packet: paths must carry as much (RFC 9000 section 14.1)."""

RECEIVED: Final = 1500
"""Bytes of a datagram that we take: what is longer is in fragments, which QUIC forbids (section 14)."""

DATAGRAMS_MAX: Final = 512
"""Of a server's, read or dropped: twice as many as `HANDSHAKE_MAX` takes."""

PIECES_MAX: Final = 64
"""Pieces of what has come, with gaps between them."""

EARLY_MAX: Final = 16
"""Packets that overtook what they can be read by: the rest is sent again."""

ACKED_MAX: Final = 32
"""The newest packets that we say to have got: the server has heard of those before."""

TOKEN_MAX: Final = 768
"""Of a Retry: what goes with it into a datagram must be a good part of our hello."""

_ID: Final = 8
_ALPN, _PARAMETERS = 16, 57  # extensions of a ClientHello

ALERTS: Final = range(0x100, 0x200)
"""Errors that are alerts of TLS (RFC 9001 section 4.8)."""

NO_APPLICATION_PROTOCOL: Final = ALERTS.start + 120

VERSIONS_MAX: Final = 8
"""Versions of a server that are worth a place in a sentence."""


def _parameters(source: bytes) -> bytes:
    """Return what the server is told of us (RFC 9000 section 18.2): what HTTP/3 wants; we go soon."""
    idle_ms, datagram, data, stream_data, streams = 0x01, 0x03, 0x04, 0x07, 0x09
    told = {idle_ms: 3000, datagram: RECEIVED, data: 1 << 16, stream_data: 1 << 14, streams: 3}
    of_source = varint(0x0F) + sized(1, source)
    return of_source + b"".join(varint(name) + sized(1, varint(value)) for name, value in told.items())


async def shake(
    host: str, port: int, server_name: str, kinds: Collection[KeyKind], *, within_s: float
) -> Shown:
    """Make a handshake for an SNI, as a client that takes these types of keys only.

    Raises:
        HandshakeFailed: the server has no leaf of such a type, speaks otherwise, or is too slow.
        OSError: nobody is there, or no way leads there.
    """
    connection = Connection(server_name, kinds)
    loop = asyncio.get_running_loop()
    shown: asyncio.Future[Shown] = loop.create_future()
    transport: asyncio.DatagramTransport | None = None
    try:
        async with asyncio.timeout(within_s):
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Socket(connection, shown), remote_addr=(host, port)
            )
            wait = RESEND_S
            while not shown.done():
                for datagram in connection.again():
                    transport.sendto(datagram)
                await asyncio.wait([shown], timeout=wait)
                wait *= 2
        return await shown
    except TimeoutError:
        silent = "" if connection.heard else ", nor said anything: does UDP come through?"
        raise HandshakeFailed(f"it did not finish a handshake within {within_s:g} s{silent}") from None
    finally:
        if transport is not None:
            transport.abort()
        if not shown.cancel():
            shown.exception()  # seen, also where nobody waits for it any more


class _Socket(asyncio.DatagramProtocol):
    """Brings what comes to the connection, and its answers away."""

    def __init__(self, connection: "Connection", shown: asyncio.Future[Shown]) -> None:
        self._connection = connection
        self._shown = shown

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        if self._shown.done():
            return
        try:
            answers = self._connection.receive(data)
        except HandshakeFailed as e:
            self._shown.set_exception(e)
            return
        if self._connection.shown is not None:
            self._shown.set_result(self._connection.shown)
        for answer in answers:
            self._transport.sendto(answer)

    def error_received(self, exc: Exception) -> None:
        """The socket is connected, so that it hears that nobody is there."""
        if not self._shown.done():
            self._shown.set_exception(exc)


class Assembly:
    """Puts together what comes in pieces, in any order and several times."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._have: list[tuple[int, int]] = []
        self._read = 0

    def take(self, offset: int, piece: bytes) -> bytes:
        """Return what can be read on with this piece."""
        begin, end = offset, offset + len(piece)
        if end > HANDSHAKE_MAX:
            raise HandshakeFailed(f"its handshake has more than {HANDSHAKE_MAX >> 10} KiB")
        if len(self._data) < end:
            self._data.extend(bytes(end - len(self._data)))
        self._data[begin:end] = piece
        apart = []
        for low, high in self._have:
            if high < begin or low > end:
                apart.append((low, high))
            else:
                begin, end = min(begin, low), max(end, high)
        self._have = sorted([*apart, (begin, end)])
        if len(self._have) > PIECES_MAX:
            raise HandshakeFailed(f"its handshake comes in more than {PIECES_MAX} pieces")
        first, last = self._have[0]
        if first > 0:
            return b""
        read, self._read = self._read, last
        return bytes(self._data[read:last])


class _Space:
    """One level of protection, with numbers of its own (RFC 9000 section 12.3)."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.mine: Keys | None = None
        self.theirs: Keys | None = None
        self.assembly = Assembly()
        self.received = set[int]()
        self.owes = False
        self._sent = 0

    def number(self) -> int:
        self._sent += 1
        return self._sent - 1

    def got(self, number: int) -> None:
        self.received.add(number)
        if len(self.received) > ACKED_MAX:
            self.received.remove(min(self.received))

    def acks(self) -> bytes:
        self.owes = False
        return quic_packets.ack(self.received) if self.received else b""


class Connection:
    """The state of one handshake: datagrams in, datagrams out."""

    def __init__(self, server_name: str, kinds: Collection[KeyKind]) -> None:
        self._source, self._destination = os.urandom(_ID), os.urandom(_ID)
        self._tls = tls13.Client(
            server_name,
            kinds,
            extensions=[
                (_ALPN, sized(2, sized(1, b"h3"))),
                (_PARAMETERS, _parameters(self._source)),
            ],
        )
        self._initial, self._handshake = _Space(Kind.INITIAL), _Space(Kind.HANDSHAKE)
        self._initial.mine, self._initial.theirs = quic_packets.initial_keys(self._destination)
        self._token = b""
        self._answered = False
        self._early: list[Packet] = []
        self._over = False  # with Initial packets
        self._datagrams = 0

    @property
    def shown(self) -> Shown | None:
        """What the server proved to hold the key of, once it has."""
        return self._tls.shown

    @property
    def heard(self) -> bool:
        """Whether the server has said anything that is QUIC."""
        return self._answered or bool(self._token)

    # What the client says

    def again(self) -> Sequence[bytes]:
        """Return what to say at first, and whenever nothing came for a while.

        Where we wait for more of the server's it may wait for us: it "MUST NOT send more than three times as
        many bytes" as it got before it has seen a Handshake packet (section 8.1), and nothing that it gets
        may be lost on us (RFC 9002 section 6.2.2.1).
        """
        if self._handshake.mine is None:
            return self._hello()
        return [self._packet(self._handshake, self._handshake.acks() + varint(FrameKind.PING))]

    def _hello(self) -> Sequence[bytes]:
        acks = self._initial.acks()
        hello, at, datagrams = self._tls.hello, 0, list[bytes]()
        room = DATAGRAM - len(self._header(Kind.INITIAL)) - 2 - NUMBER - len(acks) - CRYPTO_HEADER - TAG
        while at < len(hello):
            frames = acks + quic_packets.crypto(at, hello[at : at + room])
            datagrams.append(self._packet(self._initial, frames, fill=DATAGRAM))
            at += room
        return datagrams

    def _answer(self) -> Sequence[bytes]:
        if self.shown is not None:
            # In one packet: the server has the keys of this level no longer once it has seen Finished.
            end = quic_packets.crypto(0, self._tls.end) + quic_packets.close()
            return [self._packet(self._handshake, self._handshake.acks() + end)]
        if not self._initial.owes and not self._handshake.owes:
            return []
        second = b""
        if self._handshake.mine is not None:
            frames = self._handshake.acks() or varint(FrameKind.PING)
            second = self._packet(self._handshake, frames)
        if not self._initial.owes:
            return [second]
        first = self._packet(self._initial, self._initial.acks(), fill=DATAGRAM - len(second))
        # "A client MUST discard Initial keys when it first sends a Handshake packet" (RFC 9001, 4.9.1).
        self._over = bool(second)
        return [first + second]

    def _packet(self, space: _Space, frames: bytes, *, fill: int = 0) -> bytes:
        assert space.mine is not None  # noqa: S101
        begin, number = self._header(space.kind), space.number()
        frames = frames.ljust(fill - len(begin) - 2 - NUMBER - TAG, b"\0")
        size = (0x4000 | NUMBER + len(frames) + TAG).to_bytes(2)
        return space.mine.seal(begin + size + number.to_bytes(NUMBER), number, frames)

    def _header(self, kind: Kind) -> bytes:
        return quic_packets.header(kind, self._destination, self._source, token=self._token)

    # What the server says

    def receive(self, datagram: bytes) -> Sequence[bytes]:
        """Take in a datagram; returns what to answer. What is not for us, or nobody's, is dropped.

        Raises:
            HandshakeFailed: the server closed, or speaks otherwise than the RFCs.
        """
        self._datagrams += 1
        if self._datagrams > DATAGRAMS_MAX:
            raise HandshakeFailed(f"its handshake has more than {DATAGRAMS_MAX} datagrams")
        if len(datagram) > RECEIVED:
            return []
        again = list[bytes]()
        try:
            for packet in quic_packets.packets(datagram):
                again += self._take(packet)
        except (ValueError, LookupError):
            pass  # the rest of it is no packet
        return again or self._answer()

    def _take(self, packet: Packet) -> Sequence[bytes]:
        """Take in a packet; returns what to say in its stead, if we have to begin anew."""
        if packet.destination != self._source or self.shown is not None:
            return []
        if packet.version == quic_packets.NEGOTIATION:
            self._negotiated(packet)
        elif packet.version != quic_packets.VERSION:
            return []
        elif packet.kind is Kind.RETRY:
            return self._retried(packet)
        elif packet.kind is Kind.INITIAL and not self._over:
            self._open(self._initial, packet)
        elif packet.kind is Kind.HANDSHAKE and self._handshake.theirs is not None:
            self._open(self._handshake, packet)
        elif packet.kind is Kind.HANDSHAKE and len(self._early) < EARLY_MAX:
            self._early.append(packet)
        return []

    def _negotiated(self, packet: Packet) -> None:
        """It "MUST be discarded" where it lists ours, or comes late (section 6.2): somebody else sent it."""
        spoken = quic_packets.versions(packet)
        if not self.heard and packet.source == self._destination and quic_packets.VERSION not in spoken:
            listed = ", ".join(f"{version:#x}" for version in [*spoken][:VERSIONS_MAX])
            raise HandshakeFailed(f"it speaks no QUIC of version 1, but {listed or 'none'}")

    def _retried(self, packet: Packet) -> Sequence[bytes]:
        """Begin anew, with the token that shows the server that we are where we say to be (section 17.2.5).

        "A client MUST accept and process at most one Retry packet", and none after another packet.
        """
        if self.heard or packet.source == self._destination:
            return []
        try:
            token = quic_packets.retry_token(packet, self._destination)
        except InvalidTag:
            return []
        if not 0 < len(token) <= TOKEN_MAX:
            raise HandshakeFailed(f"its Retry has a token of {len(token)} bytes")
        self._token, self._destination = token, packet.source
        self._initial.mine, self._initial.theirs = quic_packets.initial_keys(self._destination)
        return self._hello()

    def _open(self, space: _Space, packet: Packet) -> None:
        """Read what authenticates. All that a server sends comes from one connection ID (section 7.2)."""
        if self._answered and packet.source != self._destination:
            return
        assert space.theirs is not None  # noqa: S101
        try:
            number, payload = space.theirs.open(packet.data, packet.at, max(space.received, default=-1))
        except InvalidTag:
            return
        self._answered, self._destination = True, packet.source
        if number in space.received:
            space.owes = True  # what we said of it was lost
            return
        space.got(number)
        try:
            self._read(space, payload)
        except BROKEN as e:
            raise HandshakeFailed(f"its handshake is broken ({type(e).__name__})") from None
        early, self._early = (self._early, []) if self._handshake.theirs is not None else ([], self._early)
        for each in early:
            self._open(self._handshake, each)

    def _read(self, space: _Space, payload: bytes) -> None:
        for frame in quic_packets.frames(payload):
            if self.shown is not None:
                return
            if frame.kind in {FrameKind.CLOSE, FrameKind.CLOSE_APPLICATION}:
                raise _closed(frame)
            if frame.kind not in {FrameKind.ACK, FrameKind.ACK_ECN}:
                space.owes = True
            if frame.kind is FrameKind.CRYPTO:
                told = space.assembly.take(frame.offset, frame.data)
                self._tls.receive(told, protected=space is self._handshake)
                self._unlock()

    def _unlock(self) -> None:
        """Make the keys of the next level, once there are secrets."""
        if self._tls.suite is not None and self._handshake.mine is None:
            mine, theirs = self._tls.secrets
            self._handshake.mine = Keys(self._tls.suite, mine)
            self._handshake.theirs = Keys(self._tls.suite, theirs)


def _closed(frame: quic_packets.Frame) -> HandshakeFailed:
    if frame.kind is FrameKind.CLOSE and frame.code == NO_APPLICATION_PROTOCOL:
        return HandshakeFailed("it speaks QUIC, but no HTTP/3")
    if frame.kind is FrameKind.CLOSE and frame.code in ALERTS:
        return tls13.refused(frame.code - ALERTS.start)
    names = quic_packets.ERRORS if frame.kind is FrameKind.CLOSE else {}
    return HandshakeFailed(f"it closed the connection ({names.get(frame.code, f'error {frame.code:#x}')})")
