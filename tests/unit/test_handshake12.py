"""A listener of TLS 1.2 that wants a client certificate: its leaf is seen by who has none."""

import asyncio
import hashlib
import ssl
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.targets import handshake12
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from sds_server.targets.tls13 import HandshakeFailed
from tests.support.pki import authority

NAME = "www.example.test"
CA = authority()
LEAVES = {
    "P-256": CA.issue([NAME]),
    "P-384": CA.issue([NAME], key=ec.generate_private_key(ec.SECP384R1())),
    "RSA": CA.issue([NAME], key=rsa.generate_private_key(65537, 2048)),
}


def der(pair):
    return pair.certificate.public_bytes(Encoding.DER)


@asynccontextmanager
async def serving(directory, pair, *, verify=ssl.CERT_REQUIRED):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(directory, "pair"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(CA.write(directory / "ca.pem"))
    context.verify_mode = verify

    async def hang_up(_reader, writer):
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def shown(address):
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        return await handshake12.shown(reader, writer, NAME)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("kind", LEAVES)
async def test_the_leaf_of_a_listener_that_wants_a_client_certificate_is_seen(kind, tmp_path):
    async with serving(tmp_path, LEAVES[kind]) as address:
        seen = await served_fingerprint(address, NAME)

    assert hashlib.sha256(der(LEAVES[kind])).hexdigest() == seen


async def test_a_leaf_whose_key_the_listener_does_not_hold_is_not_believed(tmp_path, monkeypatch):
    """What it shows anybody could show; what it signs holds our random."""
    other = CA.issue([NAME])
    monkeypatch.setattr(handshake12.x509, "load_der_x509_certificate", lambda _der: other.certificate)
    async with serving(tmp_path, LEAVES["P-256"]) as address:
        with pytest.raises(HandshakeFailed, match="InvalidSignature"):
            await shown(address)


async def test_who_asks_for_none_is_not_asked_this_way(tmp_path):
    """An ordinary client comes to the end there, or is told why not."""
    async with serving(tmp_path, LEAVES["P-256"], verify=ssl.CERT_NONE) as address:
        with pytest.raises(HandshakeFailed, match="asks for no client certificate"):
            await shown(address)


@pytest.mark.parametrize(
    "flight",
    [
        b"\x16\x03\x03\0\x04\x0e\0\0\0",
        b"\x16\x03\x03\0\x10\x0b\0\0\0\x0c\0\0\0\x0d\0\0\0\x0e\0\0\0",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
    ],
)
async def test_nonsense_is_a_failure_and_no_crash(flight):
    async def answer(reader, writer):
        await reader.read(1 << 16)
        writer.write(flight)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(HandshakeFailed):
            await shown(address)
        with pytest.raises(ProbeFailed):
            await served_fingerprint(address, NAME)
