"""Calls of agents: what an endpoint that an operator named can be; nothing is said to the wrong one."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from sds_server import authority
from sds_server.clock import SystemClock
from sds_server.errors import CallerError
from sds_server.inventory import proxies
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.calling import CallerCredential
from sds_server.model import Identity
from sds_server.targets import calls
from sds_server.targets.calls import ANSWER_MAX, Agents, CallFailed, Impostor, Shown, Step
from tests.support.agents import LOOPBACK, answering, enrolled, enroller_of, request_of
from tests.support.clocks import TurnedClock
from tests.support.pki import authority as any_authority

WEB = Identity("spiffe://certvoy/proxy/web-1")
SECRET_BODY = b'{"private_key": "not for you"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Answers:
    """A server that keeps what it hears, and says the same to all."""

    def __init__(self, said=OK):
        self.said, self.heard = said, []

    async def __call__(self, reader, writer):
        self.heard.append(await request_of(reader))
        writer.write(self.said)
        await writer.drain()


@pytest.fixture
async def enroller(database, tmp_path):
    return await enroller_of(database, tmp_path)


@pytest.fixture
async def web(enroller, tmp_path):
    """The credential of the agent that is called."""
    return await enrolled(enroller, tmp_path, "web-1")


@pytest.fixture
async def agents(database, enroller, web):
    """Make calls, at loopback addresses; what is enrolled is read when they are made."""

    async def agents(*, allowed=LOOPBACK, total_s=20.0, clock=None):
        admission = Admission(
            database=database, enroller=enroller, configured=[], trust_domain="certvoy", clock=SystemClock()
        )
        await admission.step()

        def identify(certificate_pem):
            holder = admission.holder(certificate_pem)
            return Shown(holder.identity, enrolled=holder.enrolment is not None)

        return Agents(
            allowed=[ip_network(text) for text in allowed],
            context=CallerCredential(enroller, SystemClock()).context,
            identify=identify,
            clock=clock or SystemClock(),
            total_s=total_s,
        )

    return agents


def pair(files):
    return files.held().paths[:2]


async def failure(agents, url, identity=WEB):
    with pytest.raises(CallFailed) as failed:
        await agents.call(url, identity, "POST", "/v1/bundles/www", body=SECRET_BODY)
    return failed.value


async def test_the_agent_that_it_should_be_gets_the_request_and_is_heard(agents, web):
    server = Answers(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}")
    async with answering(server, pair(web)) as url:
        reply = await (await agents()).call(url, WEB, "POST", "/v1/bundles/a%2Fb", body=b"{}")

    assert (503, b"{}", 7.0) == (reply.status, reply.body, reply.retry_after_s)
    assert server.heard[0].startswith(b"POST /v1/bundles/a%2Fb HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize("allowed", [(), ("10.0.0.0/8", "::1/128")])
async def test_a_loopback_address_is_not_connected_to_unless_it_is_listed(agents, web, allowed):
    server = Answers()
    async with answering(server, pair(web)) as url:
        failed = await failure(await agents(allowed=allowed), url)

    assert Step.ADDRESS is failed.step
    assert "127.0.0.1 is a loopback address" in str(failed)
    assert "push.allow" in failed.hint
    assert [] == server.heard


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254:80",
        "https://[fd00:ec2::254]:443",
        "https://[::ffff:169.254.169.254]:443",
        "https://0.0.0.0:443",
    ],
)
async def test_metadata_is_never_connected_to_whatever_is_listed(agents, url):
    everywhere = await agents(allowed=("0.0.0.0/0", "::/0"))
    failed = await failure(everywhere, url)

    assert Step.ADDRESS is failed.step
    assert "never pushed to" in str(failed)
    with pytest.raises(CallerError, match="never pushed to"):
        everywhere.check(url)


@pytest.fixture
async def resolver(monkeypatch):
    """Let the event loop's resolver answer with these addresses, one list a question."""
    loop = asyncio.get_running_loop()
    asked = []

    def resolver(*answers):
        async def getaddrinfo(host, port, **_more):
            asked.append(host)
            found = answers[min(len(asked), len(answers)) - 1]
            return [
                (
                    socket.AF_INET6 if ":" in address else socket.AF_INET,
                    socket.SOCK_STREAM,
                    6,
                    "",
                    (address, port),
                )
                for address in found
            ]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        return asked

    return resolver


@pytest.mark.parametrize(
    "addresses", [["169.254.169.254"], ["127.0.0.1", "169.254.169.254"], ["127.0.0.1", "10.0.0.1"]]
)
async def test_a_name_is_refused_for_each_of_its_addresses(agents, web, resolver, addresses):
    """One that may be connected to does not make the others good: who answers for the name chooses."""
    resolver(addresses)
    server = Answers()
    async with answering(server, pair(web)) as url:
        failed = await failure(await agents(), url.replace("127.0.0.1", "web-1.example.test"))

    assert Step.ADDRESS is failed.step
    assert "web-1.example.test: " in str(failed)
    assert [] == server.heard


async def test_a_name_is_resolved_once_and_connected_to_by_what_was_judged(agents, web, resolver):
    """DNS rebinding: the second answer would be another address."""
    asked = resolver(["127.0.0.1"], ["169.254.169.254"])
    server = Answers()
    async with answering(server, pair(web)) as url:
        reply = await (await agents()).call(
            url.replace("127.0.0.1", "web-1.example.test"), WEB, "POST", "/", body=b"{}"
        )

    assert 200 == reply.status
    assert ["web-1.example.test"] == asked


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1"])
async def test_an_address_that_is_written_otherwise_is_judged_as_what_it_is(agents, host):
    failed = await failure(await agents(allowed=()), f"https://{host}:443")

    assert Step.ADDRESS is failed.step


async def test_a_redirect_is_refused_and_not_followed(agents, web):
    target = Answers()
    async with answering(target, pair(web)) as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere}/v1\r\nContent-Length: 0\r\n\r\n".encode()
        async with answering(Answers(moved), pair(web)) as url:
            failed = await failure(await agents(), url)

    assert (Step.ANSWER, True) == (failed.step, failed.sent)
    assert "redirect (HTTP 307), which is not followed" in str(failed)
    assert [] == target.heard


async def test_an_impostor_with_a_certificate_of_another_ca_is_told_nothing(agents, tmp_path):
    foreign = any_authority("certvoy certvoy 1").issue(uris=[WEB]).write(tmp_path, "foreign")
    server = Answers()
    async with answering(server, foreign) as url:
        failed = await failure(await agents(), url)

    assert isinstance(failed, Impostor)
    assert f"is not {WEB}" in str(failed)
    assert not failed.sent
    assert [] == server.heard


async def test_another_agent_is_an_impostor_too_and_is_named(agents, enroller, tmp_path):
    other = await enrolled(enroller, tmp_path, "web-2")
    server = Answers()
    async with answering(server, pair(other)) as url:
        failed = await failure(await agents(), url)

    assert isinstance(failed, Impostor)
    assert "it is spiffe://certvoy/proxy/web-2" in str(failed)
    assert [] == server.heard


async def test_a_certificate_of_our_own_that_is_no_agents_is_an_impostor(agents, enroller, tmp_path):
    made = await enroller.server_pair(["web-1.example.test"])
    (tmp_path / "own.pem").write_bytes(made.chain_pem)
    (tmp_path / "own.key").write_bytes(made.key_pem.reveal())
    server = Answers()
    async with answering(server, (tmp_path / "own.pem", tmp_path / "own.key")) as url:
        failed = await failure(await agents(), url)

    assert isinstance(failed, Impostor)
    assert [] == server.heard


async def test_who_was_removed_is_no_agent_any_more(agents, database, web):
    await proxies.remove(database, "web-1", actor="person:test")
    server = Answers()
    async with answering(server, pair(web)) as url:
        failed = await failure(await agents(), url)

    assert isinstance(failed, Impostor)
    assert "not enrolled" in str(failed)
    assert [] == server.heard


async def test_an_identity_of_another_trust_domain_is_not_believed(agents, tmp_path):
    """TLS has verified nothing: only who our own CA names is somebody."""
    other = Identity("spiffe://example.test/web-1")
    foreign = any_authority().issue(uris=[other]).write(tmp_path, "foreign")
    server = Answers()
    async with answering(server, foreign) as url:
        failed = await failure(await agents(), url, identity=other)

    assert isinstance(failed, Impostor)
    assert [] == server.heard


async def test_a_credential_that_has_ended_is_refused_and_no_impostors(agents, web):
    server = Answers()
    clock = TurnedClock(datetime.now(UTC) + timedelta(days=2))
    async with answering(server, pair(web)) as url:
        failed = await failure(await agents(clock=clock), url)

    assert Step.IDENTITY is failed.step
    assert not isinstance(failed, Impostor)
    assert "ended at" in str(failed)
    assert [] == server.heard


async def test_a_huge_answer_is_read_no_further(agents, web):
    written = 0

    async def pour(reader, writer):
        nonlocal written
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with answering(pour, pair(web)) as url:
        failed = await failure(await agents(), url)

    assert "more than 64 KiB" in str(failed)
    assert written < 100 * ANSWER_MAX


@pytest.mark.parametrize("drips", [b"", b"x"])
async def test_an_answer_that_does_not_end_costs_its_deadline_and_no_more(agents, web, drips):
    async def drip(reader, writer):
        await request_of(reader)
        while True:
            writer.write(drips)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with answering(drip, pair(web)) as url:
        async with asyncio.timeout(15):
            failed = await failure(await agents(total_s=0.5), url)

    assert (Step.ANSWER, True) == (failed.step, failed.sent)
    assert "did not answer within 0.5 s" in str(failed)


async def test_a_port_that_speaks_plain_http_is_told_nothing(agents):
    heard = []

    async def plain(reader, writer):
        heard.append(await reader.read(4096))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with answering(plain) as url:
        failed = await failure(await agents(), url)

    assert Step.CONNECTION is failed.step
    assert "no TLS handshake" in str(failed)
    assert all(SECRET_BODY not in said for said in heard)


async def test_a_port_that_never_shakes_hands_is_given_up(agents, monkeypatch):
    monkeypatch.setattr(calls, "HANDSHAKE_S", 0.2)

    async def silent(reader, writer):
        await reader.read()

    async with answering(silent) as url:
        failed = await failure(await agents(), url)

    assert Step.CONNECTION is failed.step


async def test_nobody_there_is_a_connection_that_failed(agents):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        failed = await failure(await agents(), f"https://127.0.0.1:{taken.getsockname()[1]}")

    assert Step.CONNECTION is failed.step
    assert not failed.sent


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 2000000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
async def test_what_is_no_answer_in_http_is_none(agents, web, said):
    async with answering(Answers(said), pair(web)) as url:
        failed = await failure(await agents(), url)

    assert (Step.ANSWER, True) == (failed.step, failed.sent)


async def test_a_retry_after_is_at_most_an_hour(agents, web):
    late = b"HTTP/1.1 429 Slow\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\n\r\n"
    async with answering(Answers(late), pair(web)) as url:
        reply = await (await agents()).call(url, WEB, "POST", "/")

    assert 3600 == reply.retry_after_s


def test_who_calls_is_no_proxy_by_any_name():
    """No name that can be enrolled is the control plane's own identity."""
    own = authority.control_plane_identity("certvoy")

    assert authority.proxy_identity("certvoy", "control-plane") != own
    with pytest.raises(CallerError):
        authority.proxy_identity("certvoy", "../control-plane")
