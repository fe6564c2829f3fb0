"""The agent's endpoint: whom it listens to, and that what comes in goes the way of what is fetched."""

import asyncio
import http.client
import json
import socket
import ssl
from contextlib import closing

import pytest

from sds_server import authority
from sds_server.agent import pushed
from sds_server.agent.door import Report
from sds_server.agent.files import CredentialFiles
from sds_server.agent.pair import Bundle
from sds_server.agent.pushed import Endpoint, Pushable
from sds_server.clock import SystemClock
from sds_server.config.values import Listen
from sds_server.credentials import caller_context
from sds_server.errors import Unavailable
from sds_server.model import TargetKind
from tests.support.agents import HOST, Program, agent, enrolled, enroller_of
from tests.support.fakes import Listener
from tests.support.pki import authority as any_authority
from tests.support.pki import key_pem, new_key

BUNDLE = {"name": "www", "generation": 1, "version": "v1"}


@pytest.fixture
async def enroller(database, tmp_path):
    return await enroller_of(database, tmp_path)


@pytest.fixture
async def program(tmp_path):
    async with Listener(tmp_path) as listener:
        listener.serve(any_authority().issue(dns=["old.example.test"]))
        yield Program(listener)


def bundle(generation=1, **changed):
    """A bundle as the control plane pushes it."""
    pair = any_authority().issue(dns=["www.example.test"])
    leaf = authority.digest(pair.certificate)
    whole = BUNDLE | {
        "generation": generation,
        "fingerprint_sha256": leaf,
        "chain": pair.chain_pem.decode(),
        "private_key": pair.key_pem.decode(),
    }
    return whole | changed


async def control_plane(enroller):
    made = await enroller.caller_pair()
    return caller_context(made.chain_pem, made.key_pem.reveal())


async def post(url, context, path="/v1/bundles/www", body=None):
    """Post as whom the context shows; returns the status, the headers and the JSON."""
    return await asyncio.to_thread(_post, url, context, path, bundle() if body is None else body)


def _post(url, context, path, body):
    host = url.removeprefix("https://")
    with closing(http.client.HTTPSConnection(host, context=context, timeout=20)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read() or b"null")


async def test_the_control_plane_pushes_and_is_told_what_became_of_it(enroller, program, tmp_path):
    files, sent = await enrolled(enroller, tmp_path, "web-1"), bundle()
    async with agent(files, program) as url:
        status, _, report = await post(url, await control_plane(enroller), body=sent)
        again, _, same = await post(url, await control_plane(enroller), body=sent)

    assert (200, "proved", sent["fingerprint_sha256"]) == (
        status,
        report["state"],
        report["served_fingerprint"],
    )
    assert (200, report) == (again, same)
    assert '"v1.json"' == program.given[0].etag, "a fetch that follows finds it known"


async def test_a_credential_of_another_proxy_is_not_the_control_planes(enroller, program, tmp_path):
    files = await enrolled(enroller, tmp_path, "web-1")
    thief = await enrolled(enroller, tmp_path, "web-2")
    async with agent(files, program) as url:
        for shown in (thief, files):
            certificate, key, _ = shown.held().paths
            context = caller_context(certificate.read_bytes(), key.read_bytes())
            status, _, problem = await post(url, context)

            assert 403 == status
            assert "is not the control plane" in problem["detail"]
    assert [] == program.given


async def test_who_connects_and_says_nothing_is_hung_up_on(enroller, program, tmp_path, monkeypatch):
    monkeypatch.setattr(pushed, "HANDSHAKE_S", 0.1)
    files = await enrolled(enroller, tmp_path, "web-1")
    async with agent(files, program) as url:
        reader, writer = await asyncio.open_connection(*url.removeprefix("https://").split(":"))
        async with asyncio.timeout(20):
            said = await reader.read()
        writer.close()

    assert b"" == said


async def test_the_control_plane_that_connects_and_asks_nothing_is_hung_up_on(
    enroller, program, tmp_path, monkeypatch
):
    monkeypatch.setattr(pushed, "IDLE_S", 0.1)
    files = await enrolled(enroller, tmp_path, "web-1")
    context = await control_plane(enroller)
    async with agent(files, program) as url:
        host, port = url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        async with asyncio.timeout(20):
            said = await reader.read()
        writer.close()

    assert b"" == said


async def test_a_certificate_of_a_foreign_ca_does_not_get_in(enroller, program, tmp_path):
    files = await enrolled(enroller, tmp_path, "web-1")
    own = authority.control_plane_identity("certvoy")
    foreign = any_authority("certvoy certvoy 1").issue(uris=[own])
    async with agent(files, program) as url:
        for context in (caller_context(foreign.chain_pem, foreign.key_pem), _nobody()):
            with pytest.raises(OSError):
                await post(url, context)
    assert [] == program.given


async def test_another_root_that_the_agent_trusts_cannot_name_the_control_plane(enroller, program, tmp_path):
    """`ca:` of an agent's configuration is by whom it knows the API, and may be a whole company's."""
    company = any_authority("Example Corp Root")
    files = await enrolled(enroller, tmp_path, "web-1", roots=company.pem.decode())
    forged = company.issue(uris=[authority.control_plane_identity("certvoy")])
    async with agent(files, program) as url:
        status, _, problem = await post(url, caller_context(forged.chain_pem, forged.key_pem))

    assert 403 == status
    assert "is not the control plane of spiffe://certvoy/proxy/web-1" in problem["detail"]
    assert [] == program.given


async def test_a_server_certificate_of_the_control_plane_is_no_clients(enroller, program, tmp_path):
    files = await enrolled(enroller, tmp_path, "web-1")
    made = await enroller.server_pair(["certvoy.example.test"])
    async with agent(files, program) as url:
        with pytest.raises(OSError):
            await post(url, caller_context(made.chain_pem, made.key_pem.reveal()))


async def test_what_is_no_bundle_of_this_agent_is_refused(enroller, program, tmp_path):
    files, own = await enrolled(enroller, tmp_path, "web-1"), await control_plane(enroller)
    async with agent(files, program) as url:
        absent, _, problem = await post(url, own, path="/v1/bundles/mail")
        other, *_ = await post(url, own, body=bundle(name="mail"))
        empty, *_ = await post(url, own, body={})
        listed, *_ = await post(url, own, body=[])

    assert (404, 400, 503, 400) == (absent, other, empty, listed)
    assert "agent.yaml" in problem["hint"]
    assert [] == program.given


async def test_of_two_bundles_of_one_secret_the_target_is_meant(enroller, tmp_path):
    files, own = await enrolled(enroller, tmp_path, "web-1"), await control_plane(enroller)
    given = []

    def pushable(target):
        async def deliver(_bundle):
            given.append(target)
            return Report("www", "accepted", TargetKind.NGINX, target, 1)

        return Pushable("www", target, deliver=deliver, check=asyncio.Event().wait)

    endpoint = Endpoint(
        [pushable("one"), pushable("two")], files, listen=Listen(HOST, 0), clock=SystemClock()
    )
    port = await endpoint.start()
    try:
        url = f"https://{HOST}:{port}"
        statuses = [
            (await post(url, own, body=bundle(**more)))[0]
            for more in ({"target": "two"}, {"target": "three"}, {})
        ]
    finally:
        await endpoint.stop()

    assert ([200, 404, 404], ["two"]) == (statuses, given)


async def test_a_refusal_is_told_in_the_programs_words(enroller, program, tmp_path):
    files, own = await enrolled(enroller, tmp_path, "web-1"), await control_plane(enroller)
    program.dislikes = "nginx: [emerg] key values mismatch"
    async with agent(files, program) as url:
        _, _, report = await post(url, own)
        _, _, checked = await post(url, own, path="/v1/checks/www", body={})
        program.dislikes = None
        _, _, mended = await post(url, own, path="/v1/checks/www", body={})

    assert ("refused", "nginx: [emerg] key values mismatch") == (report["state"], report["detail"])
    assert {"ok": False, "detail": "nginx: [emerg] key values mismatch"} == checked
    assert {"ok": True, "detail": ""} == mended


async def test_while_a_delivery_is_under_way_a_push_is_told_to_come_again(
    enroller, program, tmp_path, monkeypatch
):
    monkeypatch.setattr(pushed, "BUSY_S", 0.1)
    files, own = await enrolled(enroller, tmp_path, "web-1"), await control_plane(enroller)
    turn = Pushable("www", None, deliver=program.deliver, check=program.check)
    endpoint = Endpoint([turn], files, listen=Listen(HOST, 0), clock=SystemClock())
    port = await endpoint.start()
    try:
        async with turn.lock:
            busy, headers, problem = await post(f"https://{HOST}:{port}", own)
        free, *_ = await post(f"https://{HOST}:{port}", own)
    finally:
        await endpoint.stop()

    assert (503, "30", 200) == (busy, headers["Retry-After"], free)
    assert "under way" in problem["detail"]
    assert 1 == len(program.given)


async def test_the_next_connection_shows_the_renewed_credential(enroller, program, tmp_path):
    files, own = await enrolled(enroller, tmp_path, "web-1"), await control_plane(enroller)
    async with agent(files, program) as url:
        before = await shown(url, own)
        key = new_key()
        made = await enroller.renew(
            authority.proxy_identity("certvoy", "web-1"), _enrolment(files), authority.new_csr(key)
        )
        files.store(
            certificate_pem=made.certificate_pem, key_pem=key_pem(key), authorities_pem=made.authorities_pem
        )
        after = await shown(url, own)
        status, *_ = await post(url, own)

    assert before != after
    assert ssl.PEM_cert_to_DER_cert(made.certificate_pem) == after
    assert 200 == status


async def test_without_a_credential_there_is_nothing_to_show(program, tmp_path):
    with pytest.raises(Unavailable, match="no credential to show"):
        async with agent(CredentialFiles(tmp_path / "none"), program):
            pass


def test_a_pushed_bundle_hides_its_key():
    assert "PRIVATE" not in repr(Bundle.of(bundle(), etag=""))


def _nobody():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _enrolment(files):
    return authority.enrolment_of(files.held().certificate)


async def shown(url, context):
    """The certificate that a connection is shown."""
    host, _, port = url.removeprefix("https://").partition(":")

    def look():
        with (
            socket.create_connection((host, int(port)), timeout=20) as channel,
            context.wrap_socket(channel, server_hostname=host) as tls,
        ):
            return tls.getpeercert(binary_form=True)

    return await asyncio.to_thread(look)
