"""Leaves of several key types side by side: each is seen by a client that takes its type alone."""

import asyncio
import hashlib
import shutil
import ssl
import struct
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.programs import child
from sds_server.targets import handshake, tls13
from sds_server.targets.probe import served_fingerprint, served_leaves
from sds_server.targets.tls13 import HandshakeFailed, KeyKind
from tests.support.pki import authority

NAME = "www.example.test"
CA = authority()
ECDSA = CA.issue([NAME])
RSA = CA.issue([NAME], key=rsa.generate_private_key(65537, 2048))
KINDS = {
    KeyKind.ECDSA_P256: ECDSA,
    KeyKind.ECDSA_P384: CA.issue([NAME], key=ec.generate_private_key(ec.SECP384R1())),
    KeyKind.RSA: RSA,
    KeyKind.ED25519: CA.issue([NAME], key=ed25519.Ed25519PrivateKey.generate()),
}


def der(pair):
    return pair.certificate.public_bytes(Encoding.DER)


def fingerprint(pair):
    return hashlib.sha256(der(pair)).hexdigest()


@asynccontextmanager
async def serving(directory, *pairs, version=None, suites=None, client_ca=None):
    """Serve all of these to each client what it can take."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for number, pair in enumerate(pairs):
        context.load_cert_chain(*pair.write(directory, f"pair-{number}"))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    done = []

    async def hang_up(reader, writer):
        done.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", done


async def shake(address, *kinds):
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        return await handshake.shake(reader, writer, NAME, kinds)
    finally:
        writer.close()


@pytest.mark.parametrize("kind", [*KeyKind])
async def test_the_leaf_of_each_type_is_shown_to_who_takes_that_type(kind, tmp_path):
    others = [KINDS[other] for other in (KeyKind.RSA, KeyKind.ED25519) if other != kind]
    async with serving(tmp_path, *others, KINDS[kind], version=ssl.TLSVersion.TLSv1_3) as (address, _):
        shown = await shake(address, kind)

    assert der(KINDS[kind]) == shown.leaf
    assert kind == tls13.kind_of(shown.leaf)


async def test_a_server_that_has_no_leaf_of_the_type_refuses(tmp_path):
    async with serving(tmp_path, ECDSA) as (address, _):
        with pytest.raises(HandshakeFailed):
            await shake(address, KeyKind.RSA)


async def test_a_server_that_speaks_no_tls_1_3_is_known_by_that(tmp_path):
    async with serving(tmp_path, ECDSA, version=ssl.TLSVersion.TLSv1_2) as (address, _):
        with pytest.raises(HandshakeFailed) as failed:
            await shake(address, KeyKind.ECDSA_P256)

    assert failed.value.only_older


async def test_the_handshake_is_brought_to_its_end(tmp_path):
    """A server that is left in the middle would count a failed one."""
    async with serving(tmp_path, ECDSA) as (address, done):
        await shake(address, KeyKind.ECDSA_P256)
        async with asyncio.timeout(30):
            while not done:
                await asyncio.sleep(0)

    assert [b""] == done


async def test_a_server_that_asks_for_a_client_certificate_is_answered(tmp_path):
    ca = CA.write(tmp_path / "ca.pem")
    async with serving(tmp_path, ECDSA, client_ca=ca) as (address, done):
        await shake(address, KeyKind.ECDSA_P256)
        async with asyncio.timeout(30):
            while not done:
                await asyncio.sleep(0)

    assert [b""] == done


@pytest.mark.parametrize(
    "suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
)
@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384"])
async def test_every_cipher_suite_and_group_is_spoken(suite, group, tmp_path):
    chain, key = ECDSA.write(tmp_path, "pair")
    port = child.free_port()
    argv = [shutil.which("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", chain, "-key", key]
    argv += ["-quiet", "-ciphersuites", suite, "-groups", group]
    server = await asyncio.create_subprocess_exec("setpriv", "--pdeathsig", "TERM", *map(str, argv))
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    shown = await shake(f"127.0.0.1:{port}", KeyKind.ECDSA_P256)
                    break
                except ConnectionError:
                    await asyncio.sleep(0.02)
    finally:
        server.kill()
        await server.wait()

    assert der(ECDSA) == shown.leaf


async def test_a_leaf_whose_key_the_server_does_not_hold_is_not_believed(tmp_path, monkeypatch):
    """Anybody can show a certificate: only the signature says who holds its key."""
    other = CA.issue([NAME])
    real = tls13.x509.load_der_x509_certificate
    monkeypatch.setattr(
        tls13.x509, "load_der_x509_certificate", lambda der: other.certificate if der else real(der)
    )
    async with serving(tmp_path, ECDSA) as (address, _):
        with pytest.raises(HandshakeFailed, match="InvalidSignature"):
            await shake(address, KeyKind.ECDSA_P256)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x16\x03\x03\x00\x04\x02\0\0\0", b"\x16\x03\x03\xff\xff"],
)
async def test_what_speaks_something_else_is_no_leaf(answer):
    async def say(reader, writer):
        await reader.read(5)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        with pytest.raises(HandshakeFailed):
            await shake(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", KeyKind.RSA)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("wanted", [ECDSA, RSA])
async def test_each_of_two_leaves_side_by_side_is_seen(version, wanted, tmp_path):
    """An ordinary client is shown one of them only: the other one would be called stale for ever."""
    async with serving(tmp_path, ECDSA, RSA, version=version) as (address, _):
        assert fingerprint(wanted) == await served_fingerprint(address, NAME, wanted=fingerprint(wanted))


async def test_one_side_that_serves_the_leaf_before_is_told_so(tmp_path):
    """What an ordinary client sees is well: the other side's old leaf is what matters."""
    new = CA.issue([NAME], key=RSA.key)
    async with serving(tmp_path, ECDSA, RSA) as (address, _):
        seen = await served_fingerprint(address, NAME, wanted=fingerprint(new), before=fingerprint(RSA))

    assert fingerprint(RSA) == seen


async def test_a_side_that_is_missing_is_not_seen(tmp_path):
    async with serving(tmp_path, ECDSA) as (address, _):
        assert fingerprint(ECDSA) == await served_fingerprint(address, NAME, wanted=fingerprint(RSA))


async def test_all_leaves_are_shown_once(tmp_path):
    pairs = ECDSA, RSA, KINDS[KeyKind.ED25519]
    async with serving(tmp_path, *pairs, version=ssl.TLSVersion.TLSv1_3) as (address, _):
        leaves = [leaf async for leaf in served_leaves(address, NAME)]

    assert sorted(map(der, pairs)) == sorted(leaves)


@asynccontextmanager
async def saying(*records):
    """Answer each client with these bytes, whatever it says."""

    async def answer(reader, writer):
        await reader.read(1 << 16)
        writer.write(b"".join(records))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def server_hello(*extensions):
    listed = b"".join(struct.pack("!HH", number, len(body)) + body for number, body in extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\x13\x01\0" + struct.pack("!H", len(listed)) + listed
    message = b"\x02" + len(body).to_bytes(3) + body
    return struct.pack("!BHH", 22, 0x0303, len(message)) + message


@pytest.mark.parametrize(
    "extensions",
    [
        [(43, b"\x03\x04")],
        [(43, b"\x03\x04"), (51, b"\0")],
        [(43, b"\x03\x04"), (51, b"\0\x1d\0\x20" + bytes(32))],
    ],
    ids=["no key share", "half a key share", "a key share of nought"],
)
async def test_what_a_broken_server_says_is_a_failure_and_no_crash(extensions):
    """A crash would end the looks at all others, which one bad proxy must not."""
    async with saying(server_hello(*extensions)) as address:
        with pytest.raises(HandshakeFailed, match="its handshake is broken"):
            await shake(address, KeyKind.RSA)


async def test_who_goes_on_in_the_clear_is_not_believed():
    """All behind a ServerHello is protected: what is not may be of anybody who stands between."""
    share = b"\0\x1d\0\x20" + x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    in_the_clear = struct.pack("!BHH", 22, 0x0303, 4) + b"\x08\0\0\0"
    async with saying(server_hello((43, b"\x03\x04"), (51, share)), in_the_clear) as address:
        with pytest.raises(HandshakeFailed, match="it went on in the clear"):
            await shake(address, KeyKind.RSA)


ODD = der(ECDSA).replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209"))
"""A leaf whose key is of a type that nobody knows."""


async def test_a_leaf_with_a_key_of_an_unknown_type_is_a_failure_and_no_crash(tmp_path, monkeypatch):
    odd = x509.load_der_x509_certificate(ODD)
    monkeypatch.setattr(tls13.x509, "load_der_x509_certificate", lambda _der: odd)
    async with serving(tmp_path, ECDSA) as (address, _):
        with pytest.raises(HandshakeFailed, match="UnsupportedAlgorithm"):
            await shake(address, KeyKind.ECDSA_P256)
    assert tls13.kind_of(ODD) is None
