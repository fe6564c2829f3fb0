"""The probe: which leaf a listener serves for a name, or why none was seen."""

import asyncio
import hashlib
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.errors import CallerError
from sds_server.programs.child import free_port
from sds_server.targets import probe
from sds_server.targets.probe import BELOW_WILDCARD, ProbeFailed, Way, covered, served_fingerprint, split
from tests.support.fakes import Listener
from tests.support.pki import authority


@pytest.fixture
def ca():
    return authority()


def fingerprint(pair):
    return hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).hexdigest()


async def test_the_leaf_that_is_served_is_shown(ca, tmp_path):
    pair = ca.issue(["www.example.test"])
    async with Listener(tmp_path) as listener:
        listener.serve(pair)

        assert fingerprint(pair) == await served_fingerprint(listener.address, "www.example.test")


async def test_each_name_is_asked_for_by_sni(ca, tmp_path):
    one, two = ca.issue(["one.example.test"]), ca.issue(["two.example.test"])
    async with Listener(tmp_path) as listener:
        listener.serve(one, "one.example.test")
        listener.serve(two, "two.example.test")

        assert fingerprint(two) == await served_fingerprint(listener.address, "two.example.test")
        assert ["two.example.test"] == listener.names


async def test_every_probe_is_a_fresh_session(ca, tmp_path):
    """A resumed one would show the leaf of before."""
    old, new = ca.issue(["www.example.test"]), ca.issue(["www.example.test"])
    async with Listener(tmp_path) as listener:
        listener.serve(old)
        await served_fingerprint(listener.address, "www.example.test")
        listener.serve(new)

        assert fingerprint(new) == await served_fingerprint(listener.address, "www.example.test")


async def test_an_expired_leaf_of_an_unknown_ca_is_shown_as_well(ca, tmp_path):
    """Which leaf is served is the question, not whether it is good."""
    pair = ca.issue(["other.example.test"], days=0.001)
    async with Listener(tmp_path) as listener:
        listener.serve(pair)

        assert fingerprint(pair) == await served_fingerprint(listener.address, "www.example.test")


async def test_a_listener_that_wants_a_client_certificate_shows_its_leaf_first(ca, tmp_path):
    pair = ca.issue(["www.example.test"])
    async with Listener(tmp_path) as listener:
        listener.serve(pair, client_ca=ca.write(tmp_path / "ca.pem"))

        assert fingerprint(pair) == await served_fingerprint(listener.address, "www.example.test")


async def test_a_port_that_nobody_listens_on_is_said():
    address = f"127.0.0.1:{free_port()}"

    with pytest.raises(ProbeFailed, match=f"^{address}: Connection refused$"):
        await served_fingerprint(address, "www.example.test")


async def test_a_listener_without_a_leaf_for_the_name_is_said(tmp_path):
    async with Listener(tmp_path) as listener:
        with pytest.raises(ProbeFailed, match="it hung up in the handshake"):
            await served_fingerprint(listener.address, "www.example.test")


@asynccontextmanager
async def answering(answer):
    """Listen without TLS: answer these bytes and hang up, or with None say nothing for ever."""
    writers = []

    async def handle(_reader, writer):
        writers.append(writer)
        if answer is not None:
            writer.write(answer)
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_what_speaks_no_tls_is_said_in_words(answer):
    async with answering(answer) as address:
        with pytest.raises(ProbeFailed, match=rf"^{address}: \S+"):
            await served_fingerprint(address, "www.example.test")


async def test_a_listener_of_http_is_said_to_speak_no_tls():
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        with pytest.raises(ProbeFailed, match=rf"^{address}: what it answers is no TLS$"):
            await served_fingerprint(address, "www.example.test")


async def test_a_listener_that_says_nothing_is_left_after_the_deadline(monkeypatch):
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.05)
    async with answering(None) as address:
        with pytest.raises(ProbeFailed, match=r"did not finish a TLS handshake within 0\.05 s"):
            await served_fingerprint(address, "www.example.test")


@asynccontextmanager
async def reading(received):
    """Listen without TLS, add what comes, and hang up."""

    async def handle(reader, writer):
        received.append(await reader.read(17))
        writer.transport.abort()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_header_is_of_no_proxied_connection_and_names_no_address():
    received = []
    async with reading(received) as address:
        with pytest.raises(ProbeFailed, match="after a header of the PROXY protocol: does it want none"):
            await served_fingerprint(Way(address, proxy_protocol=True), "www.example.test")
        with pytest.raises(ProbeFailed, match="if it wants the PROXY protocol: --proxy-protocol"):
            await served_fingerprint(address, "www.example.test")

    version_2_local, unspecified, no_addresses = b"\x20", b"\x00", b"\x00\x00"
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    header = signature + version_2_local + unspecified + no_addresses
    assert [header] * 2 == [first[:16] for first in received[:2]]
    assert [b"\x16"] * 2 == [first[:1] for first in received[2:]], "TLS, and nothing before it"


async def test_a_header_where_none_is_wanted_is_said(ca, tmp_path):
    async with Listener(tmp_path) as listener:
        listener.serve(ca.issue(["www.example.test"]))
        with pytest.raises(ProbeFailed, match="after a header of the PROXY protocol"):
            await served_fingerprint(Way(listener.address, proxy_protocol=True), "www.example.test")


async def test_a_port_that_nobody_listens_on_wants_nothing():
    with pytest.raises(ProbeFailed) as failed:
        await served_fingerprint(f"127.0.0.1:{free_port()}", "www.example.test")

    assert "PROXY" not in str(failed.value)


async def test_a_host_that_is_no_name_is_an_answer_and_not_a_crash():
    with pytest.raises(ProbeFailed, match="label"):
        await served_fingerprint("edge..example.test:443", "www.example.test")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("edge-1.example.com:443", ("edge-1.example.com", 443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_is_host_and_port(address, parts):
    assert parts == split(address)


@pytest.mark.parametrize(
    "address",
    ["", "edge-1", "edge-1:", ":443", "edge-1:0", "edge-1:65536", "edge-1:https", "::1:443", "[]:443"],
)
def test_what_is_no_address_is_refused_with_an_example(address):
    with pytest.raises(CallerError, match="must be host:port") as refused:
        split(address)
    assert "edge-1.example.com:443" in refused.value.next_step


def test_below_a_wildcard_a_name_is_asked_for_that_it_covers():
    assert ["www.a.test", "certvoy-probe.a.test"] == [covered(name) for name in ("www.a.test", "*.a.test")]


@pytest.mark.parametrize("length", range(241, 254))
async def test_below_a_long_wildcard_the_name_is_short_enough_for_sni(ca, tmp_path, length):
    labels = ".".join(["a" * 62] * 4)[: length - 2]
    pair = ca.issue([f"*.{labels}"])
    async with Listener(tmp_path) as listener:
        listener.serve(pair)
        name = covered(f"*.{labels}")

        assert fingerprint(pair) == await served_fingerprint(listener.address, name)
    assert [name] == listener.names
    assert name.removesuffix(f".{labels}") in {BELOW_WILDCARD[:n] for n in range(1, 14)}
