"""A TLS 1.3 client that takes some types of keys only, and learns what it is shown: messages and secrets.

A listener can serve an ECDSA and an RSA leaf side by side, and an ordinary client is shown the first alone.
Which one a server takes depends on the client's ``signature_algorithms`` (RFC 8446 section 4.2.3), which
Python's ssl cannot set. So this is the least of a client that can: one round trip, the server's signature
over the transcript verified, then its end. It resumes nothing and verifies no chain. How its messages are
carried is the business of who drives it: records over TCP, packets of QUIC.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from acme_engine.names import is_address

HANDSHAKE_MAX: Final = 256 * 1024
"""Of a server's first flight: the longest chain that the content gate takes is a quarter of that."""

_SERVER_HELLO, _CERTIFICATE, _CERTIFICATE_REQUEST, _CERTIFICATE_VERIFY, _FINISHED = 2, 11, 13, 15, 20
_X25519: Final = 0x001D
_PROTOCOL_VERSION: Final = 70
_HEADER: Final = 4  # of a handshake message: type and length

_CURVES: Final[Mapping[int, ec.EllipticCurve]] = {0x0017: ec.SECP256R1(), 0x0018: ec.SECP384R1()}
"""Of key shares besides X25519's; some listeners take P-384 alone, and would ask for it in another round."""

RETRY: Final = hashlib.sha256(b"HelloRetryRequest").digest()
"""The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3)."""


class KeyKind(StrEnum):
    """Types of keys that a server chooses between by what its client can verify."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA = "rsa"
    ED25519 = "ed25519"


_RSA_PKCS1: Final = 0x0401
"""Signs no handshake of TLS 1.3, yet "MAY appear" (section 4.2.3): HAProxy looks for it in who takes RSA."""

SCHEMES: Final[Mapping[KeyKind, tuple[int, ...]]] = {
    KeyKind.ECDSA_P256: (0x0403,),
    KeyKind.ECDSA_P384: (0x0503,),
    KeyKind.RSA: (0x0804, 0x0805, 0x0806, _RSA_PKCS1),
    KeyKind.ED25519: (0x0807,),
}
"""SignatureScheme of each (RFC 8446 section 4.2.3); in TLS 1.3 a scheme of ECDSA names its curve."""

_ANY_CHAIN: Final = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0807)
"""For the signatures within the chain: which key the leaf has is the question, not who signed it."""

_HASHES: Final = {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()}


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite: the hash of the secrets, and what protects what is sent."""

    hash: str
    key_bytes: int
    aead: type[AESGCM] | type[ChaCha20Poly1305]


SUITES: Final = {
    0x1301: Suite("sha256", 16, AESGCM),
    0x1302: Suite("sha384", 32, AESGCM),
    0x1303: Suite("sha256", 32, ChaCha20Poly1305),
}


BROKEN: Final = (struct.error, LookupError, ValueError, InvalidTag, InvalidSignature, UnsupportedAlgorithm)
"""All that reading what a server says can come to: whoever says nonsense must not end the looks at others."""


class HandshakeFailed(Exception):
    """There was none; the message says why. ``only_older``: the server may not speak TLS 1.3."""

    def __init__(self, why: str, *, only_older: bool = False) -> None:
        super().__init__(why)
        self.only_older = only_older


@dataclass(frozen=True, slots=True)
class Shown:
    """What the server proved to hold the key of, and what it stapled: DER each."""

    leaf: bytes
    staple: bytes | None


def refused(alert: int) -> HandshakeFailed:
    """Return what an alert of the server means for the handshake (section 6)."""
    return HandshakeFailed(
        f"it refused the handshake (TLS alert {alert})", only_older=alert == _PROTOCOL_VERSION
    )


def kind_of(leaf: bytes) -> KeyKind | None:
    """Return of which type the key of a leaf (DER) is; None: of none that is known here."""
    try:
        key = x509.load_der_x509_certificate(leaf).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    match key:
        case rsa.RSAPublicKey():
            return KeyKind.RSA
        case ed25519.Ed25519PublicKey():
            return KeyKind.ED25519
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return KeyKind.ECDSA_P256
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            return KeyKind.ECDSA_P384
        case _:
            return None


class Client:
    """The state of one handshake: messages in, messages out."""

    def __init__(
        self,
        server_name: str,
        kinds: Collection[KeyKind],
        *,
        session: bytes = b"",
        extensions: Iterable[tuple[int, bytes]] = (),
    ) -> None:
        """``session`` is what is offered as of one to resume; ``extensions`` are the carrier's own."""
        self._x25519 = x25519.X25519PrivateKey.generate()
        self._ec = {number: ec.generate_private_key(curve) for number, curve in _CURVES.items()}
        self._schemes = [scheme for kind in KeyKind if kind in kinds for scheme in SCHEMES[kind]]
        self.hello = self._client_hello(server_name, session, extensions)
        self.end = b""
        self.shown: Shown | None = None
        self.suite: Suite | None = None
        self.secrets: tuple[bytes, bytes] = (b"", b"")
        """The client's and the server's, of what is sent between ServerHello and the end."""
        self._transcript = self.hello
        self._pending = b""
        self._presented: Shown | None = None
        self._verified = False
        self._asked: bytes | None = None

    @property
    def greeted(self) -> bool:
        """Whether there was a ServerHello of TLS 1.3."""
        return self.suite is not None

    # What the client says

    def _client_hello(self, server_name: str, session: bytes, more: Iterable[tuple[int, bytes]]) -> bytes:
        x_public = self._x25519.public_key().public_bytes_raw()
        shares = struct.pack("!HH", _X25519, 32) + x_public
        for number, key in self._ec.items():
            point = key.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            shares += struct.pack("!HH", number, len(point)) + point
        extensions = b"".join(
            struct.pack("!HH", number, len(body)) + body
            for number, body in (
                # "Literal IPv4 and IPv6 addresses are not permitted" there (RFC 6066 section 3).
                *(
                    []
                    if is_address(server_name)
                    else [(0, sized(2, b"\0" + sized(2, server_name.encode("idna"))))]
                ),
                (5, b"\x01\0\0\0\0"),  # status_request: ocsp, no responders, no extensions
                (10, sized(2, _numbers((_X25519, *_CURVES)))),
                (13, sized(2, _numbers(self._schemes))),
                (50, sized(2, _numbers(_ANY_CHAIN))),
                (43, b"\x02\x03\x04"),
                (51, sized(2, shares)),
                *more,
            )
        )
        body = (
            b"\x03\x03"
            + os.urandom(32)
            + sized(1, session)
            + sized(2, _numbers(SUITES))
            + b"\x01\0"
            + sized(2, extensions)
        )
        return _message(1, body)

    # What the server says

    def receive(self, data: bytes, *, protected: bool) -> None:
        """Take in what was carried, a message or parts of some; ``protected``: by the secrets.

        Raises:
            HandshakeFailed: the server speaks otherwise than RFC 8446.
            BROKEN: it speaks nonsense.
        """
        self._pending += data
        if len(self._pending) + len(self._transcript) > HANDSHAKE_MAX:
            raise HandshakeFailed(f"its handshake has more than {HANDSHAKE_MAX >> 10} KiB")
        while len(self._pending) >= _HEADER and self.shown is None:
            size = _HEADER + int.from_bytes(self._pending[1:_HEADER])
            if len(self._pending) < size:
                return
            if protected != self.greeted:
                raise HandshakeFailed("it went on in the clear")
            message, self._pending = self._pending[:size], self._pending[size:]
            self._take(message[0], message[_HEADER:], message)

    def _take(self, kind: int, body: bytes, message: bytes) -> None:
        """Take in one message; what is signed or authenticated is the transcript before it."""
        before = self._transcript
        self._transcript += message
        if self.suite is None:
            if kind != _SERVER_HELLO:
                raise HandshakeFailed("it answered with something else than a ServerHello")
            self._server_hello(body)
        elif kind == _CERTIFICATE_REQUEST:
            self._asked = body[1 : 1 + body[0]]
        elif kind == _CERTIFICATE:
            self._certificate(body)
        elif kind == _CERTIFICATE_VERIFY:
            self._certificate_verify(body, before)
        elif kind == _FINISHED:
            self._finished(body, before)

    def _server_hello(self, body: bytes) -> None:
        if body[2:34] == RETRY:
            raise HandshakeFailed("it wants a key exchange by none of X25519, P-256 and P-384")
        at = 35 + body[34]
        (number,) = struct.unpack_from("!H", body, at)
        extensions = _extensions(body[at + 3 :])
        if extensions.get(43) != b"\x03\x04":
            raise HandshakeFailed("it speaks no TLS 1.3", only_older=True)
        if number not in SUITES:
            raise HandshakeFailed("it chose a cipher suite that was not offered")
        suite = SUITES[number]
        group, size = struct.unpack_from("!HH", extensions[51])
        share = extensions[51][4 : 4 + size]
        if group == _X25519:
            shared = self._x25519.exchange(x25519.X25519PublicKey.from_public_bytes(share))
        else:
            theirs = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[group], share)
            shared = self._ec[group].exchange(ec.ECDH(), theirs)
        zeros = bytes(hashlib.new(suite.hash).digest_size)
        empty = hashlib.new(suite.hash).digest()
        early = hmac.digest(zeros, zeros, suite.hash)
        secret = hmac.digest(expand(suite, early, "derived", empty, len(zeros)), shared, suite.hash)
        so_far = hashlib.new(suite.hash, self._transcript).digest()
        client, server = (
            expand(suite, secret, f"{who} hs traffic", so_far, len(zeros)) for who in ("c", "s")
        )
        self.suite, self.secrets = suite, (client, server)

    def _certificate(self, body: bytes) -> None:
        at = 1 + body[0]
        entries = body[at + 3 : at + 3 + int.from_bytes(body[at : at + 3])]
        size = int.from_bytes(entries[:3])
        leaf, rest = entries[3 : 3 + size], entries[3 + size :]
        status = _extensions(rest).get(5)
        staple = status[4 : 4 + int.from_bytes(status[1:4])] if status and status[0] == 1 else None
        self._presented = Shown(leaf, staple)

    def _certificate_verify(self, body: bytes, before: bytes) -> None:
        """Verify that the server holds the leaf's key (section 4.4.3); else it could show anybody's leaf."""
        if self._presented is None:
            raise HandshakeFailed("it signed before it showed a leaf")
        scheme, size = struct.unpack_from("!HH", body)
        if scheme not in self._schemes:
            raise HandshakeFailed("it signed by a key of a type that was not offered")
        signature = body[4 : 4 + size]
        signed = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + self._digest(before)
        key = x509.load_der_x509_certificate(self._presented.leaf).public_key()
        match key:
            case rsa.RSAPublicKey() if scheme in _HASHES:
                algorithm = _HASHES[scheme]
                salted = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
                key.verify(signature, signed, salted, algorithm)
            case ed25519.Ed25519PublicKey() if scheme in SCHEMES[KeyKind.ED25519]:
                key.verify(signature, signed)
            case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()) if scheme in SCHEMES[KeyKind.ECDSA_P256]:
                key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
            case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()) if scheme in SCHEMES[KeyKind.ECDSA_P384]:
                key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
            case _:
                raise HandshakeFailed("its leaf has a key of another type than it signed by")
        self._verified = True

    def _finished(self, body: bytes, before: bytes) -> None:
        client, server = self.secrets
        if not self._verified:
            raise HandshakeFailed("it ended the handshake without a signature")
        if not hmac.compare_digest(body, self._verify_data(server, before)):
            raise HandshakeFailed("its handshake is broken (Finished)")
        messages = b""
        if self._asked is not None:  # for a client certificate: we have none to show
            messages = _message(_CERTIFICATE, sized(1, self._asked) + bytes(3))
        transcript = self._transcript + messages
        messages += _message(_FINISHED, self._verify_data(client, transcript))
        # A server that is not answered would count a failed handshake, and somebody would look for its cause.
        self.end = messages
        self.shown = self._presented

    def _verify_data(self, secret: bytes, transcript: bytes) -> bytes:
        assert self.suite is not None  # noqa: S101
        name = self.suite.hash
        key = expand(self.suite, secret, "finished", b"", hashlib.new(name).digest_size)
        return hmac.digest(key, self._digest(transcript), name)

    def _digest(self, transcript: bytes) -> bytes:
        assert self.suite is not None  # noqa: S101
        return hashlib.new(self.suite.hash, transcript).digest()


def expand(suite: Suite, secret: bytes, label: str, context: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (section 7.1); all that is asked for here fits into one block or two."""
    info = struct.pack("!H", size) + sized(1, b"tls13 " + label.encode()) + sized(1, context)
    block, out = b"", b""
    for number in range(1, 3):
        block = hmac.digest(secret, block + info + bytes([number]), suite.hash)
        out += block
    return out[:size]


def sized(width: int, content: bytes) -> bytes:
    """Return the content behind its length, in so many bytes."""
    return len(content).to_bytes(width) + content


def _numbers(numbers: Iterable[int]) -> bytes:
    return b"".join(number.to_bytes(2) for number in numbers)


def _message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + sized(3, body)


def _extensions(data: bytes) -> dict[int, bytes]:
    """Read a list of extensions, which begins with its length."""
    end, at, found = 2 + int.from_bytes(data[:2]), 2, {}
    while at < end:
        number, size = struct.unpack_from("!HH", data, at)
        found[number] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return found
