"""docs/how-to/keys-on-the-host.md with the real control plane, agent and nginx: no key leaves the host."""

import asyncio
import shutil

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acme_engine.keys import spki_sha256
from sds_server.targets.probe import served_leaf
from tests.support import beside, debian
from tests.support.beside import Nginx
from tests.support.control_plane import until
from tests.support.pages import DOCS, blocks, section

pytestmark = pytest.mark.debian

STEPS = section(DOCS / "how-to" / "keys-on-the-host.md", "In three steps")
DOMAIN = "www.example.test"


class Site(Nginx):
    """nginx beside its agent, whose directory is as the page has it."""

    @property
    def directory(self):
        return self.home / "www"

    def write(self, server, *, program):
        """The page's agent.yaml, with this test's places."""
        settings = yaml.safe_load(blocks(STEPS, "yaml")[1])
        settings["server"] = server
        settings["credentials"] = str(self.home / "credentials")
        settings["token_file"] = str(self.home / "token")
        (bundle,) = settings["bundles"]
        bundle["directory"] = str(self.directory)
        bundle["probe"]["address"] = self.address
        del bundle["nginx"]
        bundle |= program
        (self.home / "agent.yaml").write_text(yaml.safe_dump(settings))

    async def leaf(self):
        """What a handshake shows."""
        return x509.load_der_x509_certificate(await served_leaf(self.address, DOMAIN))

    def kept(self):
        """The keys that its agent keeps, by the hashes of their public halves."""
        return {
            spki_sha256(serialization.load_pem_private_key(file.read_bytes(), None).public_key())
            for file in (self.directory / "keys").glob("*.pem")
        }


@pytest.fixture
async def plane(connect, tmp_path):
    async with beside.control_plane(connect, tmp_path) as plane:
        plane.settings |= yaml.safe_load(blocks(STEPS, "yaml")[0])
        yield plane


@pytest.fixture
async def hosts(tmp_path):
    """Two hosts, each with its nginx."""
    sites = []
    for name in ("host", "other"):
        home = tmp_path / name
        home.mkdir()
        try:
            sites.append(Site(home))
        except debian.Unavailable as e:
            pytest.skip(str(e))
    yield sites
    for site in sites:
        await site.stop()


@pytest.mark.timeout(400)
async def test_the_page_makes_keys_that_never_leave_their_host(plane, hosts, sql):
    host, other = hosts
    server = f"https://{plane.settings['admin']['listen']}"
    agents = []

    async def enroll(name, site):
        code, said = await plane.command("proxies", "enroll", name, "--secret", "www")
        assert 0 == code, said
        (site.home / "token").write_text(said.strip().splitlines()[-1])

    def start(site):
        agents.append(beside.agent(site.home))
        return agents[-1]

    async def stop(agent):
        agent.kill()
        await agent.wait()

    def why_says(*words):
        async def says():
            _, said = await plane.command("why", "www")
            return all(word in said for word in words)

        return says

    def completed(generation):
        async def holds():
            outcome = await sql.fetchval(
                "SELECT r.outcome FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
                " WHERE c.generation = $1",
                generation,
            )
            return outcome == "completed"

        return holds

    async def newest():
        row = await sql.fetchrow(
            "SELECT generation, fingerprint, spki_sha256 FROM certificate ORDER BY generation DESC LIMIT 1"
        )
        return tuple(row)

    async def serves(generation):
        """A handshake shows that generation, and its key is on the host."""
        await until(completed(generation))
        number, fingerprint, spki = await newest()
        leaf = await host.leaf()
        assert (generation, fingerprint) == (number, await host.served(DOMAIN))
        assert spki == spki_sha256(leaf.public_key())
        assert spki in host.kept()

    async def next_waits():
        return await sql.fetchval("SELECT csr IS NOT NULL FROM key_request WHERE secret = 'www'")

    try:
        # First issuance: it waits for a request, and for nothing else.
        await plane.start()
        await until(why_says("its target has not brought a signing request: none has its keys yet"))
        await enroll("web-1", host)
        host.write(server, program={"nginx": {"command": host.command}})
        agent = start(host)
        await agent.ready(lambda: asyncio.to_thread((host.directory / "current").exists), timeout_s=180)
        await host.start()
        await serves(1)

        # Rotations, each with a key of its own.
        for generation in (2, 3, 4):
            code, said = await plane.command("rotate", "www", "--wait")
            assert 0 == code, said
            await serves(generation)
        assert 4 == await sql.fetchval("SELECT count(DISTINCT spki_sha256) FROM certificate")
        await until(
            why_says(
                "/proxy/web-1) has its keys, and its request of",
                "waits for the next order",
            )
        )

        # Away over one renewal, whose request lies ready; the one after that waits for the agent.
        await until(next_waits)
        await stop(agent)
        await plane.command("rotate", "www")

        async def issued():
            return (await newest())[0] == 5

        await until(issued)
        await plane.command("rotate", "www")
        await until(
            why_says(
                "has not brought a signing request", "/proxy/web-1) has its keys, and nothing has come since"
            )
        )
        agent = start(host)
        await serves(6)

        # The host is built anew: enrolled under its old name, and nothing else is done by hand.
        await until(next_waits)
        before = host.kept()
        await stop(agent)
        shutil.rmtree(host.directory)
        shutil.rmtree(host.home / "credentials")
        await enroll("web-1", host)
        agent = start(host)
        await serves(7)
        assert set() == before & host.kept()
        assert 1 == await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = 'key.lost'")

        # A host of another identity is told whose keys they are.
        await enroll("web-2", other)
        other.write(server, program={"files": {}})
        second = start(other)

        async def told():
            return "/proxy/web-1) has its keys" in second.log_tail()

        await until(told)
        assert not (other.directory / "current").exists()
        assert [0, 0] == list(
            await sql.fetchrow(
                "SELECT max(octet_length(envelope)), max(octet_length(dek_wrapped)) FROM key_material"
                " WHERE purpose = 'leaf'"
            )
        )
        assert b"PRIVATE KEY" not in (host.home / "agent.log").read_bytes() + plane.log().encode()
    finally:
        for running in agents:
            running.kill()
