"""What a listener of TLS 1.2 shows before it asks who we are.

One that wants a client certificate ends the handshake of a client that has none, and in TLS 1.2 that is
before its end, so that Python's ssl tells nothing of what was shown. Until then all is in the clear: the
leaf, and a key exchange that its key has signed with our random in it (RFC 5246 section 7.4.3), which proves
as much as an end would. So this client says hello, verifies that, and leaves.
"""

import asyncio
import os
import struct
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from acme_engine.names import is_address
from sds_server.targets.handshake import RECORD_MAX
from sds_server.targets.tls13 import BROKEN, HANDSHAKE_MAX, HandshakeFailed, sized

_HANDSHAKE: Final = 22
_SERVER_HELLO, _CERTIFICATE, _KEY_EXCHANGE, _CERTIFICATE_REQUEST, _DONE = 2, 11, 12, 13, 14

_SUITES: Final = (0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC009, 0xC013, 0xC00A, 0xC014)
"""ECDHE with ECDSA or RSA: of any other key exchange nothing is signed."""

_GROUPS: Final = (0x001D, 0x0017, 0x0018)
_HASHES: Final = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}
_PSS: Final = {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()}
_SCHEMES: Final = (0x0403, 0x0503, 0x0603, 0x0401, 0x0501, 0x0601, *_PSS)


async def shown(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server_name: str) -> bytes:
    """Return the leaf (DER) of a listener that asks for a client certificate in TLS 1.2.

    The caller bounds the time, and closes.

    Raises:
        HandshakeFailed: it does not ask for one, or speaks otherwise.
        OSError: the connection broke.
    """
    random = os.urandom(32)
    writer.write(_hello(random, server_name))
    try:
        return _read(random, await _flight(reader))
    except asyncio.IncompleteReadError:
        raise HandshakeFailed("it hung up in the handshake") from None
    except BROKEN as e:
        raise HandshakeFailed(f"its handshake is broken ({type(e).__name__})") from None


def _hello(random: bytes, server_name: str) -> bytes:
    name = server_name.encode("idna")
    extensions = b"".join(
        struct.pack("!HH", number, len(body)) + body
        for number, body in (
            *([] if is_address(server_name) else [(0, sized(2, b"\0" + sized(2, name)))]),
            (10, sized(2, struct.pack("!3H", *_GROUPS))),
            (11, b"\x01\0"),
            (13, sized(2, struct.pack(f"!{len(_SCHEMES)}H", *_SCHEMES))),
        )
    )
    suites = struct.pack(f"!{len(_SUITES)}H", *_SUITES)
    body = b"\x03\x03" + random + b"\0" + sized(2, suites) + b"\x01\0" + sized(2, extensions)
    message = b"\x01" + sized(3, body)
    return struct.pack("!BHH", _HANDSHAKE, 0x0301, len(message)) + message


async def _flight(reader: asyncio.StreamReader) -> dict[int, bytes]:
    """Return the bodies of the messages of the server's first flight, by type."""
    pending, messages = b"", dict[int, bytes]()
    read = 0
    while _DONE not in messages:
        header = await reader.readexactly(5)
        size = int.from_bytes(header[3:])
        read += size
        if header[0] != _HANDSHAKE or size > RECORD_MAX or read > HANDSHAKE_MAX:
            raise HandshakeFailed("it answered with something else than a handshake of TLS 1.2")
        pending += await reader.readexactly(size)
        while len(pending) >= 4 and len(pending) >= (end := 4 + int.from_bytes(pending[1:4])):  # noqa: PLR2004
            messages[pending[0]] = pending[4:end]
            pending = pending[end:]
    return messages


def _read(random: bytes, messages: dict[int, bytes]) -> bytes:
    if _CERTIFICATE_REQUEST not in messages:
        raise HandshakeFailed("it asks for no client certificate")
    chain, exchange = messages[_CERTIFICATE], messages[_KEY_EXCHANGE]
    leaf = chain[6 : 6 + int.from_bytes(chain[3:6])]
    parameters = exchange[: 4 + exchange[3]]
    scheme, size = struct.unpack_from("!HH", exchange, len(parameters))
    signature = exchange[len(parameters) + 4 : len(parameters) + 4 + size]
    signed = random + messages[_SERVER_HELLO][2:34] + parameters
    key = x509.load_der_x509_certificate(leaf).public_key()
    match key:
        case rsa.RSAPublicKey() if (salted := _PSS.get(scheme)) is not None:
            key.verify(signature, signed, padding.PSS(padding.MGF1(salted), salted.digest_size), salted)
        case rsa.RSAPublicKey() if scheme & 0xFF == 1:
            key.verify(signature, signed, padding.PKCS1v15(), _HASHES[scheme >> 8])
        case ec.EllipticCurvePublicKey() if scheme & 0xFF == 3:  # noqa: PLR2004 - ecdsa
            key.verify(signature, signed, ec.ECDSA(_HASHES[scheme >> 8]))
        case _:
            raise HandshakeFailed("its leaf has a key of another type than it signed by")
    return leaf
