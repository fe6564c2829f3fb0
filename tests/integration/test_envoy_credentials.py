"""A real Envoy whose client certificate an agent keeps: it is renewed under it, and delivery goes on."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server import authority
from sds_server.agent.files import CredentialFiles
from sds_server.authority import Ca
from sds_server.identity import Grant, Grants, Trust
from sds_server.programs import envoy
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.cluster import EnrolledControlPlane
from tests.support import pki
from tests.xds.sds import TIMEOUT_S, Deployment

SITES = pki.authority("Sites")
NODE = "edge-1"
EDGE = "spiffe://certvoy/proxy/edge-1"
LIFE = timedelta(seconds=15)


class Enrolled:
    """A server that knows clients by its own CA alone, and the directory of one proxy's credential."""

    def __init__(self, directory):
        key = pki.new_key()
        self.ca = Ca(authority.new_ca(key, name="own", now=datetime.now(UTC)), key)
        self.server = Deployment(directory)
        self.server.files["client_ca"].write_text(authority.pem([self.ca.certificate]))
        self.server.trust = Trust("certvoy", authorities=[self.ca.certificate], enrolled={EDGE: 1})
        self.server.grants = Grants([Grant(EDGE, ("a",))])
        self.files = CredentialFiles(directory / "credentials")

    def credential(self, lifetime):
        """Put the next credential there, as an agent does."""
        key = pki.new_key()
        made = authority.credential(
            self.ca, key.public_key(), identity=EDGE, enrolment=1, now=datetime.now(UTC), lifetime=lifetime
        )
        self.files.store(
            certificate_pem=authority.pem([made]),
            key_pem=pki.key_pem(key),
            authorities_pem=self.server.servers_ca.pem.decode(),
        )
        return made

    def bootstrap(self, api):
        return bootstrap(
            node_id=NODE,
            cluster="edge",
            api=api,
            control_plane=EnrolledControlPlane(
                host="127.0.0.1",
                port=self.server.port,
                server_name="localhost",
                credentials=self.files.directory,
            ),
            listeners=[TlsListener("https", "a")],
        )


@pytest.fixture
async def enrolled(tmp_path):
    made = Enrolled(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


async def served(edge):
    context = ssl.create_default_context(cadata=SITES.pem.decode())
    port = await edge.listener_port("https")
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="a.test")
    leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return leaf


async def until_served(edge, pair):
    wanted = ssl.PEM_cert_to_DER_cert(pair.chain_pem.decode())
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                if await served(edge) == wanted:
                    return
            except (OSError, ssl.SSLError):  # nothing to show yet
                pass
            await asyncio.sleep(0.02)


async def serial_of_credential(edge):
    """Return the serial numbers of all that Envoy holds, its own credential among them."""
    return {int(leaf["serial_number"], 16) for entry in await edge.certs() for leaf in entry["cert_chain"]}


@pytest.mark.parametrize("api", [api for api in Api if api is not Api.REST])  # it has no stream
async def test_delivery_survives_the_renewal_and_the_end_of_the_old_credential(enrolled, api, tmp_path):
    """Envoy keeps its connection when its certificate is renewed, so the old one ends in mid-stream."""
    server = enrolled.server
    first, second = SITES.issue(dns=["a.test"]), SITES.issue(dns=["a.test"])
    server.publish("a", 1, first)
    old = enrolled.credential(LIFE)
    edge = await envoy.start(enrolled.bootstrap(api), tmp_path)
    failures, done = [], asyncio.Event()

    async def probe():
        while not done.is_set():
            try:
                await served(edge)
            except (OSError, ssl.SSLError) as e:
                failures.append(str(e))
            await asyncio.sleep(0.01)

    try:
        await until_served(edge, first)
        probing = asyncio.create_task(probe())
        renewed = enrolled.credential(timedelta(hours=1))
        async with asyncio.timeout(TIMEOUT_S):
            while renewed.serial_number not in await serial_of_credential(edge):
                await asyncio.sleep(0.02)
        kept = ("disconnected", NODE, "a") not in server.witness.facts

        await server.witness.until("disconnected", NODE, "a")  # the old one has ended
        ended = datetime.now(UTC)
        server.publish("a", 2, second)
        await until_served(edge, second)
        took_s = (datetime.now(UTC) - ended).total_seconds()
        done.set()
        await probing
    finally:
        done.set()
        await edge.stop()

    assert kept
    assert ended >= old.not_valid_after_utc
    assert [] == failures
    assert took_s < 20


async def test_the_stream_of_a_proxy_that_was_removed_ends_at_once(enrolled, tmp_path):
    server = enrolled.server
    enrolled.credential(timedelta(hours=1))
    server.publish("a", 1, SITES.issue(dns=["a.test"]))
    edge = await envoy.start(enrolled.bootstrap(Api.ADS), tmp_path)
    try:
        await server.witness.until("accepted", NODE, "a", 1)
        server.trust = Trust("certvoy", authorities=[enrolled.ca.certificate])
        server.server.recheck()
        await server.witness.until("disconnected", NODE, "a")
        server.publish("a", 2, SITES.issue(dns=["a.test"]))

        assert ("sent", NODE, "a", 2) not in server.witness.facts
        assert 1 == server.witness.facts.count(("subscribed", NODE, "a"))
    finally:
        await edge.stop()
