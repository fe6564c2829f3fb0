"""docs/how-to/keys-on-the-host.md, "For an Envoy": a real one serves keys that never leave its host."""

import asyncio
import ssl

import pytest
import yaml
from cryptography import x509

import tests.xds.quiet  # noqa: F401
from acme_engine.keys import spki_sha256
from sds_server.programs import envoy
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.cluster import EnrolledControlPlane
from tests.support import beside
from tests.support.control_plane import HOST, until
from tests.support.pages import DOCS, blocks, section

PAGE = section(DOCS / "how-to" / "keys-on-the-host.md", "For an Envoy")
DOMAIN = "www.example.test"
ROTATIONS = 5


class Host:
    """An Envoy, and the agent that makes its keys."""

    def __init__(self, home, plane):
        self.home, self.plane = home, plane
        self.keys = home / "keys"
        self.envoy = self.agent = None
        declared = yaml.safe_load(blocks(PAGE, "yaml")[0])
        file = declared["secrets"]["www"]["key_file"]
        declared["secrets"]["www"]["key_file"] = file.replace("/var/lib/certvoy-keys/www", str(self.keys))
        plane.settings |= declared

    async def enroll(self):
        code, said = await self.plane.command("proxies", "enroll", "edge-1", "--secret", "www")
        assert 0 == code, said
        (self.home / "token").write_text(said.strip().splitlines()[-1])
        settings = yaml.safe_load(blocks(PAGE, "yaml")[1])
        settings["server"] = f"https://{self.plane.settings['admin']['listen']}"
        settings["credentials"] = str(self.home / "credentials")
        settings["token_file"] = str(self.home / "token")
        (made,) = settings["keys"]
        del made["group"]
        made |= {"directory": str(self.keys), "every": "300ms"}
        (self.home / "agent.yaml").write_text(yaml.safe_dump(settings))

    async def start_agent(self):
        self.agent = beside.agent(self.home)
        await self.agent.ready(
            lambda: asyncio.to_thread((self.home / "credentials" / "current").exists), timeout_s=180
        )

    async def stop_agent(self):
        self.agent.kill()
        await self.agent.wait()

    async def start_envoy(self):

        settings = bootstrap(
            node_id="edge-1",
            cluster="edge",
            api=Api.ADS,
            control_plane=EnrolledControlPlane(
                host=HOST, port=self.plane.sds_port, server_name=HOST, credentials=self.home / "credentials"
            ),
            listeners=[TlsListener("https", "www")],
        )
        (self.home / "envoy").mkdir()
        self.envoy = await envoy.start(settings, self.home / "envoy")
        port = await self.envoy.listener_port("https")
        code, said = await self.plane.command(
            *["targets", "add", "edge-1", "--identity", "spiffe://certvoy/proxy/edge-1", "--node", "edge-1"],
            *["--probe", f"{HOST}:{port}", "--secret", "www"],
        )
        assert 0 == code, said

    async def stop(self):
        if self.envoy is not None:
            await self.envoy.stop()
        if self.agent is not None:
            self.agent.kill()

    async def leaf(self):
        """What a client sees that believes the CA alone."""
        context = ssl.create_default_context(cafile=str(self.plane.root))
        port = await self.envoy.listener_port("https")
        _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname=DOMAIN)
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(leaf)

    def laid(self):
        return {file.stem for file in self.keys.glob("*.pem")}


@pytest.fixture
async def host(connect, tmp_path):
    async with beside.control_plane(connect, tmp_path) as plane:
        made = Host(tmp_path, plane)
        yield made
        await made.stop()


@pytest.mark.timeout(600)
async def test_the_page_has_an_envoy_serve_keys_that_never_leave_its_host(host, sql):
    plane = host.plane
    seen, failures, done = set(), [], asyncio.Event()

    async def looking():
        while not done.is_set():
            try:
                seen.add((await host.leaf()).serial_number)
            except (OSError, ssl.SSLError) as e:
                failures.append(repr(e))
            await asyncio.sleep(0.01)

    def completed(generation):
        async def holds():
            return "completed" == await sql.fetchval(
                "SELECT r.outcome FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
                " WHERE c.generation = $1",
                generation,
            )

        return holds

    async def next_waits():
        return await sql.fetchval("SELECT csr IS NOT NULL FROM key_request WHERE secret = 'www'")

    await plane.start()
    await host.enroll()
    await host.start_agent()
    await host.start_envoy()
    await until(completed(1))
    clients = asyncio.create_task(looking())

    # Rotations under handshakes: each has a key of its own, that is on this host and nowhere else.
    for _ in range(ROTATIONS):
        await until(next_waits)
        code, said = await plane.command("rotate", "www", "--wait")
        assert 0 == code, said
        leaf = await host.leaf()
        assert spki_sha256(leaf.public_key()).hex() in host.laid()
    assert 1 + ROTATIONS == await sql.fetchval("SELECT count(DISTINCT spki_sha256) FROM certificate")
    assert len(host.laid()) <= 4, "what no chain can name any more is removed"
    assert 0 == await sql.fetchval(
        "SELECT count(*) FROM key_material WHERE purpose = 'leaf' AND octet_length(envelope) > 0"
    )

    # A key that is not where Envoy looks: it refuses, is named with its words, and serves on.
    await until(next_waits)
    await host.stop_agent()
    before = await host.leaf()
    current = spki_sha256(before.public_key()).hex()
    for key in host.laid() - {current}:
        (host.keys / f"{key}.pem").unlink()
    await plane.command("rotate", "www")

    async def named():
        _, said = await plane.command("why", "www")
        return "edge-1" in said and "Invalid path" in said

    await until(named)
    assert before == await host.leaf()
    assert ["rejected"] == [
        row["status"]
        for row in await sql.fetch("SELECT status FROM certificate ORDER BY generation DESC LIMIT 1")
    ]

    # With its agent there again all goes on.
    await host.start_agent()
    await until(next_waits)
    code, said = await plane.command("rotate", "www", "--wait")
    assert 0 == code, said
    assert before != await host.leaf()
    done.set()
    await clients
    assert [] == failures
    assert 2 + ROTATIONS == len(seen)
    assert b"PRIVATE KEY" not in (host.home / "agent.log").read_bytes() + plane.log().encode()
