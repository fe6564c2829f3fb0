"""A QUIC server for one handshake, that says what a test wants: datagrams in, datagrams out."""

import asyncio
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.targets import quic_packets
from sds_server.targets.quic_packets import NUMBER, TAG, FrameKind, Keys, Kind
from sds_server.targets.tls13 import SUITES, expand, sized

SOURCE = b"server-1"
EXPECTED = 1000
"""Bytes of a CRYPTO frame, so that a flight takes several packets."""


def message(kind: int, body: bytes) -> bytes:
    """Return a handshake message."""
    return bytes([kind]) + sized(3, body)


def extensions(*items: tuple[int, bytes]) -> bytes:
    """Return a list of extensions."""
    return sized(2, b"".join(struct.pack("!H", number) + sized(2, body) for number, body in items))


class Server:
    """Holds a pair of `tests.support.pki` whose key is of P-256.

    ``suite`` is what it chooses; ``change`` may say something else in place of a message.
    """

    def __init__(
        self, pair: Any, *, suite: int = 0x1301, change: Callable[[str, bytes], bytes] | None = None
    ) -> None:
        self._pair = pair
        self._number, self._suite = suite, SUITES[suite]
        self._change = change or (lambda _name, said: said)
        self._share = x25519.X25519PrivateKey.generate()
        self._client = b""
        self._secrets: dict[str, bytes] = {}
        self._transcript = b""
        self.initial: tuple[Keys, Keys] | None = None
        self.handshake: tuple[Keys, Keys] | None = None
        self.frames: list[tuple[Kind, int, quic_packets.Frame]] = []
        """All that the client has said, with the level and the number of its packet."""

    @property
    def hello(self) -> bytes:
        """The ClientHello, as far as it has come."""
        pieces = {
            frame.offset: frame.data for kind, _, frame in self.frames if kind is Kind.INITIAL and frame.data
        }
        return b"".join(pieces[offset] for offset in sorted(pieces))

    def read(self, datagram: bytes) -> None:
        """Take in what the client says."""
        for packet in quic_packets.packets(datagram):
            self._client = packet.source
            if packet.kind is Kind.INITIAL and self.initial is None:
                self.initial = quic_packets.initial_keys(packet.destination)
            keys = self.initial if packet.kind is Kind.INITIAL else self.handshake
            assert keys is not None
            number, payload = keys[0].open(packet.data, packet.at, -1)
            self.frames += [(packet.kind, number, frame) for frame in quic_packets.frames(payload)]

    def flight(self) -> Sequence[bytes]:
        """Return what a server says to a hello, a packet a datagram."""
        first = self._say("server_hello", self._server_hello())
        self._keys()
        second = self._say("encrypted_extensions", message(8, extensions((16, sized(2, sized(1, b"h3"))))))
        leaf = self._pair.certificate.public_bytes(Encoding.DER)
        entries = b"".join(sized(3, der) + b"\0\0" for der in (leaf, *self.issuers))
        second += self._say("certificate", message(11, b"\0" + sized(3, entries)))
        second += self._say("certificate_verify", message(15, b"\x04\x03" + sized(2, self._signature())))
        second += self._say("finished", message(20, self._verify_data("s")))
        pieces = [second[at : at + EXPECTED] for at in range(0, len(second), EXPECTED)]
        return [
            self.packet(Kind.INITIAL, 0, quic_packets.crypto(0, first)),
            *(
                self.packet(Kind.HANDSHAKE, number, quic_packets.crypto(number * EXPECTED, piece))
                for number, piece in enumerate(pieces)
            ),
        ]

    issuers: Sequence[bytes] = ()
    """What is shown behind the leaf."""

    def packet(self, kind: Kind, number: int, payload: bytes, *, source: bytes = SOURCE) -> bytes:
        """Return a packet of the server's; ``source``: from another connection ID."""
        keys = self.initial if kind is Kind.INITIAL else self.handshake
        assert keys is not None
        begin = quic_packets.header(kind, self._client, source)
        size = 0x4000 | NUMBER + len(payload) + TAG
        return keys[1].seal(begin + size.to_bytes(2) + number.to_bytes(NUMBER), number, payload)

    def closed(self, code: int, *, kind: FrameKind = FrameKind.CLOSE) -> bytes:
        """Return a packet that closes the connection, with a reason in words."""
        by = b"\0" if kind is FrameKind.CLOSE else b""
        frame = quic_packets.varint(kind) + quic_packets.varint(code) + by + sized(1, b"because")
        return self.packet(Kind.INITIAL, 0, frame)

    def ended(self) -> bool:
        """Whether the client has brought the handshake to its end."""
        said = b"".join(frame.data for kind, _, frame in self.frames if kind is Kind.HANDSHAKE)
        return said == message(20, self._verify_data("c"))

    # What is within

    def _say(self, name: str, said: bytes) -> bytes:
        said = self._change(name, said)
        self._transcript += said
        return said

    def _server_hello(self) -> bytes:
        public = self._share.public_key().public_bytes_raw()
        chosen = extensions((43, b"\x03\x04"), (51, b"\0\x1d" + sized(2, public)))
        self._transcript = self.hello
        return message(2, b"\x03\x03" + os.urandom(32) + b"\0" + self._number.to_bytes(2) + b"\0" + chosen)

    def _keys(self) -> None:
        name, size = self._suite.hash, hashlib.new(self._suite.hash).digest_size
        at = self.hello.index(b"\0\x1d\0\x20") + 4
        shared = self._share.exchange(x25519.X25519PublicKey.from_public_bytes(self.hello[at : at + 32]))
        early = hmac.digest(bytes(size), bytes(size), name)
        derived = expand(self._suite, early, "derived", hashlib.new(name).digest(), size)
        secret = hmac.digest(derived, shared, name)
        self._secrets = {
            who: expand(self._suite, secret, f"{who} hs traffic", self._digest(), size) for who in "cs"
        }
        self.handshake = Keys(self._suite, self._secrets["c"]), Keys(self._suite, self._secrets["s"])

    def _digest(self) -> bytes:
        return hashlib.new(self._suite.hash, self._transcript).digest()

    def _signature(self) -> bytes:
        signed = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + self._digest()
        signature: bytes = self._pair.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return signature

    def _verify_data(self, who: str) -> bytes:
        name = self._suite.hash
        key = expand(self._suite, self._secrets[who], "finished", b"", hashlib.new(name).digest_size)
        return hmac.digest(key, self._digest(), name)


def retry(client: bytes, original: bytes, source: bytes, token: bytes) -> bytes:
    """Return a Retry to a client, for its packet to the connection ID ``original``."""
    body = b"\xf0" + quic_packets.VERSION.to_bytes(4) + sized(1, client) + sized(1, source) + token
    return body + quic_packets.retry_tag(body, original)


def negotiation(client: bytes, original: bytes, *versions: int) -> bytes:
    """Return a Version Negotiation."""
    listed = b"".join(version.to_bytes(4) for version in versions)
    return b"\x80" + bytes(4) + sized(1, client) + sized(1, original) + listed


class QuicListener:
    """Serves one pair, which can be changed, over QUIC: beside a listener over TCP, at its ``host:port``."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._at = host, int(port)
        self.pair: Any = None
        """None: it says nothing."""

    def serve(self, pair: Any) -> None:
        self.pair = pair

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Answers(self), local_addr=self._at)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._transport.abort()


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, listener: QuicListener) -> None:
        self._listener = listener
        self._servers: dict[Any, Server] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._listener.pair is None:
            return
        new = addr not in self._servers
        server = self._servers.setdefault(addr, Server(self._listener.pair))
        server.read(data)
        for datagram in server.flight() if new else []:
            self._transport.sendto(datagram, addr)
