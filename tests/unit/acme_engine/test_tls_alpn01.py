"""The responder that ends TLS for validations (RFC 8737, RFC 8738), and for nothing else."""

import asyncio
import hashlib
import ipaddress
import ssl
from contextlib import asynccontextmanager

import pytest
from cryptography import x509

from acme_engine import TlsAlpn01Responder, TlsAlpn01Solver, errors, tls_alpn01
from acme_engine.messages import Challenge, Identifier
from acme_engine.tls_alpn01 import ACME_IDENTIFIER, ALPN, server_name
from tests.support.acme import Tokens

NAME = Identifier("dns", "www.example.com")
KEY_AUTHORIZATION = "token.thumbprint"
CHALLENGE = Challenge("tls-alpn-01", "https://ca.test/challenge", "pending", token="A" * 43, error=None)


@asynccontextmanager
async def serving(*identifiers, on_asked=print, **more):
    tokens = Tokens()
    for identifier in identifiers:
        await TlsAlpn01Solver(tokens).present(identifier, CHALLENGE, KEY_AUTHORIZATION)
    responder = TlsAlpn01Responder(tokens, host="127.0.0.1", port=0, **more)
    responder.on_asked = on_asked
    port = await responder.start()
    try:
        yield port, tokens
    finally:
        await responder.stop()


async def asked(port, name, *, alpn=(ALPN,), version=ssl.TLSVersion.TLSv1_3):
    """Ask as a CA does; returns the certificate and the protocol chosen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        tls = writer.get_extra_info("ssl_object")
        await reader.read()
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)), tls.selected_alpn_protocol()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_certificate_has_the_one_name_and_the_digest_in_a_critical_extension(version):
    async with serving(NAME) as (port, _):
        certificate, protocol = await asked(port, "www.example.com", version=version)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    answer = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)

    assert ALPN == protocol
    assert [x509.DNSName("www.example.com")] == list(names)
    assert answer.critical
    assert b"\x04\x20" + hashlib.sha256(KEY_AUTHORIZATION.encode()).digest() == answer.value.value


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1", "1.0.0.127.in-addr.arpa"),
        ("2001:db8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"),
    ],
)
async def test_an_address_is_asked_for_by_its_reverse_name(address, name):
    """RFC 8738 section 6: the SNI is the reverse name, the SAN the address."""
    identifier = Identifier("ip", address)
    async with serving(identifier) as (port, _):
        certificate, _ = await asked(port, name)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert name == server_name(identifier)
    assert [x509.IPAddress(ipaddress.ip_address(address))] == list(names)


async def test_case_does_not_matter():
    async with serving(NAME) as (port, _):
        certificate, _ = await asked(port, "WWW.example.COM")

    assert certificate is not None


@pytest.mark.parametrize("name", ["other.example.com", None])
async def test_nobody_else_gets_a_certificate(name):
    async with serving(NAME) as (port, _):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            await asked(port, name)


async def test_who_asks_is_told_of():
    heard = []
    async with serving(NAME, on_asked=heard.append) as (port, _):
        await asked(port, "www.example.com")
        with pytest.raises(ssl.SSLError):
            await asked(port, "other.example.com")

    assert ["answered", "unknown"] == heard


async def test_after_cleanup_it_is_nobody():
    async with serving(NAME) as (port, tokens):
        await TlsAlpn01Solver(tokens).cleanup(NAME, CHALLENGE, KEY_AUTHORIZATION)
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            await asked(port, "www.example.com")


async def test_a_client_hello_in_pieces_is_put_together():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="www.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    async with serving(NAME) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in outgoing.read():
            writer.write(bytes([byte]))
            await writer.drain()
        while client.version() is None or client.getpeercert(binary_form=True) is None:
            incoming.write(await reader.read(4096))
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                continue
        writer.close()

    assert ALPN == client.selected_alpn_protocol()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 20_000, b""])
async def test_what_is_no_client_hello_is_cut_off(junk):
    async with serving(NAME) as (port, tokens):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(junk)
        writer.write_eof()
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
        writer.close()

    assert b"" == said
    assert [] == tokens.reads


async def test_the_slow_are_cut_off():
    async with serving(NAME, deadline_s=0.05) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()

    assert b"" == said


async def test_over_so_many_the_oldest_that_has_said_nothing_goes(monkeypatch):
    monkeypatch.setattr(tls_alpn01, "MAX_CONNECTIONS", 2)
    async with serving(NAME) as (port, _):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        certificate, _ = await asked(port, "www.example.com")
        said = await asyncio.wait_for(idle[0][0].read(), 10)
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()

    assert (True, b"") == (certificate is not None, said)


async def test_a_port_that_is_taken_is_a_clear_error():
    async with serving() as (port, _):
        responder = TlsAlpn01Responder(Tokens(), host="127.0.0.1", port=port)
        with pytest.raises(errors.CannotListen, match=f"cannot listen on 127.0.0.1:{port}"):
            await responder.start()
