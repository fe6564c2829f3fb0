"""docs/targets of HAProxy, Traefik and Caddy with the real programs: enrol, rotate under users, refuse."""

import asyncio
import grp
import os
import statistics
import sys
from pathlib import Path

import pytest
import yaml

from sds_server.agent.installers.traefik import MARK
from sds_server.programs import caddy as ca_program
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import caddy, debian, haproxy, traefik
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.pages import DOCS, blocks, section
from tests.support.pki import authority
from tests.support.traffic import Traffic

ROOT = Path(__file__).parents[2]
DOMAIN = "www.example.test"
STEPS = "In three steps"
WITHOUT = "Without an agent: the HTTP provider"
PAIRS = "/var/lib/certvoy-pairs/www"
ROTATIONS = 20
IDENTITY = "spiffe://example.test/edge-1"


class HAProxy:
    """HAProxy as its page has it."""

    kind = "haproxy"
    keeps_connections = True
    WORDS = "no-such-keyword"

    def __init__(self, home, pairs):
        self.program = haproxy.HAProxy(home, "ssl crt unused")
        (lines,) = blocks(section(page(self), STEPS), "haproxy")
        lines = lines.replace("/run/haproxy/admin.sock", str(self.program.socket)).replace(PAIRS, str(pairs))
        lines = lines.replace(":443", self.program.address)
        before, defaults = self.program.config.read_text().split("defaults")
        defaults = defaults.split("frontend")[0]
        assert "level admin" in before
        self.lines = (
            f"defaults{defaults}{lines}"
            '    http-request return status 200 content-type text/plain string "hello"\n'
        )
        self.program.write(self.lines)

    def settings(self, section_):
        return section_ | {"command": self.program.command, "socket": str(self.program.socket)}

    def spoil(self):
        self.program.write(f"no-such-keyword\n{self.lines}")

    def mend(self):
        self.program.write(self.lines)


class Traefik:
    """Traefik as its page has it."""

    kind = "traefik"
    keeps_connections = True
    WORDS = "somebody else wrote it"

    def __init__(self, home, pairs):
        self.program = traefik.Traefik(home)
        _, _, static = (yaml.safe_load(block) for block in blocks(section(page(self), STEPS), "yaml"))
        assert {"entryPoints", "providers"} == set(static)
        assert ":443" == static["entryPoints"]["websecure"]["address"]
        static["providers"]["file"]["directory"] = str(self.program.dynamic)
        self.program.settings["providers"] = static["providers"]
        self.file = self.program.dynamic / "certvoy-www.yml"

    def settings(self, section_):
        assert {"file", "api"} == set(section_)
        return {"file": str(self.file), "api": self.program.api}

    def spoil(self):
        self.file.write_text(self.file.read_text().removeprefix(MARK))

    def mend(self):
        self.file.write_text(MARK + self.file.read_text())


class Caddy:
    """Caddy as its page has it."""

    kind = "caddy"
    keeps_connections = False
    WORDS = "unrecognized directive: no_such_directive"

    def __init__(self, home, pairs):
        current = pairs / "current"
        self.program = caddy.Caddy(
            home, certificate=current / "fullchain.pem", key=current / "key.pem", unix=False
        )
        (lines,) = blocks(section(page(self), STEPS), "caddyfile")
        lines = lines.replace(PAIRS, str(pairs)).replace(
            "https://www.example.com:443 {", f"https://{DOMAIN}:{self.program.port} {{\n\tbind {HOST}"
        )
        ours = self.program.config.read_text()
        self.lines = ours[: ours.index("https://")] + lines
        self.program.config.write_text(self.lines)

    def settings(self, section_):
        assert {"admin", "check"} == set(section_)
        return {"admin": self.program.admin, "check": self.program.validate}

    def spoil(self):
        self.program.config.write_text(self.lines.replace("respond", "no_such_directive"))

    def mend(self):
        self.program.config.write_text(self.lines)


def page(site):
    return DOCS / "targets" / f"{site.kind}.md"


def agent_yaml(site, home, pairs, server):
    """The page's agent.yaml, with this test's places."""
    (text,) = [block for block in blocks(section(page(site), STEPS), "yaml") if "bundles:" in block]
    settings = yaml.safe_load(text)
    settings["server"] = server
    settings["credentials"] = str(home / "credentials")
    settings["token_file"] = str(home / "token")
    (bundle,) = settings["bundles"]
    bundle["directory"] = str(pairs)
    bundle["probe"]["address"] = site.program.address
    bundle[site.kind] = site.settings(bundle[site.kind])
    if "group" in bundle:
        bundle["group"] = grp.getgrgid(os.getgid()).gr_name
    return yaml.safe_dump(settings)


@pytest.fixture
async def plane(connect, tmp_path):
    http01_port = free_port()
    ca = await ca_program.Caddy.start(tmp_path / "ca", responder=f"{HOST}:{http01_port}")
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=http01_port)
    plane.issuer(ca.directory_url, ca.ca_file)
    plane.settings["rotation"]["settle"] = "1h"  # only a target completes
    yield plane
    if plane.child is not None:
        await plane.stop()
    await ca.stop()


def completed(sql, generation):
    async def holds():
        query = (
            "SELECT r.outcome FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
            " WHERE c.generation = $1"
        )
        return "completed" == await sql.fetchval(query, generation)

    return holds


async def served(program):
    try:
        return await served_fingerprint(program.address, DOMAIN)
    except ProbeFailed:
        return None


async def told(sql, traffic, kind):
    """Print what the rotations took, and cost."""
    rows = await sql.fetch(
        "SELECT extract(epoch FROM a.timestamp - c.issued_at) AS seconds"
        " FROM certaudit a JOIN certificate c ON c.id = a.cert_id"
        " WHERE a.action = 'delivery.proved' AND c.generation > 1"
    )
    seconds = sorted(float(row["seconds"]) for row in rows)
    print(
        f"{kind}: {len(seconds)} rotations; {traffic}; stored to proved: "
        f"median {statistics.median(seconds):.2f} s, longest {seconds[-1]:.2f} s"
    )
    return seconds


@pytest.fixture(
    params=[pytest.param(HAProxy, marks=pytest.mark.debian), Traefik, Caddy],
    ids=lambda site: site.kind,
)
async def site(request, tmp_path):
    home = tmp_path / "host"
    home.mkdir()
    try:
        site = request.param(home, home / "www")
    except debian.Unavailable as e:
        pytest.skip(str(e))
    yield site
    await site.program.stop()


@pytest.mark.timeout(600)
async def test_the_page_serves_rotates_proves_and_keeps_what_works(plane, site, sql, tmp_path):
    home = tmp_path / "host"
    for setting in ("certificate", "key", "client_ca"):
        del plane.settings["sds"][setting]
    plane.settings["admin"] = {"listen": f"{HOST}:{free_port()}"}
    await plane.start()
    code, said = await plane.command("proxies", "enroll", "edge-1", "--secret", "www")
    assert 0 == code, said
    (home / "token").write_text(said.strip().splitlines()[-1])
    server = f"https://{plane.settings['admin']['listen']}"
    (home / "agent.yaml").write_text(agent_yaml(site, home, home / "www", server))
    argv = [sys.executable, "-m", "sds_server", "agent", "--config", home / "agent.yaml"]
    agent = Child("agent", argv, log=home / "agent.log", cwd=ROOT, pdeathsig="KILL")
    try:
        await agent.ready(lambda: asyncio.to_thread((home / "www" / "current").exists), timeout_s=180)
        await site.program.start()
        await until(completed(sql, 1))

        # Rotations, under users.
        async with Traffic(site.program.address, DOMAIN) as traffic:
            for generation in range(2, ROTATIONS + 2):
                code, said = await plane.command("rotate", "www")
                assert 0 == code, said
                await until(completed(sql, generation))
        seconds = await told(sql, traffic, site.kind)
        assert ROTATIONS == len(seconds)
        assert traffic.done > ROTATIONS
        if site.keeps_connections:
            assert (0, 0, 0) == (traffic.failed, traffic.cut, traffic.broken), traffic.errors
        else:
            assert traffic.failed + traffic.cut <= ROTATIONS, traffic.errors

        # It refuses what comes next: the reason is told, and the old one is served and current again.
        before = await served(site.program)
        site.spoil()
        await plane.command("rotate", "www")

        async def refused():
            _, why = await plane.command("why", "www")
            return site.WORDS in why

        await until(refused)

        async def taken_back():
            status = "SELECT status FROM certificate ORDER BY generation DESC LIMIT 1"
            return await sql.fetchval(status) == "rejected"

        await until(taken_back)
        assert before == await served(site.program)

        # Mended, the next one comes in.
        site.mend()
        await plane.command("rotate", "www")

        async def complete():
            return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NULL") == 0

        await until(complete)
        newest = await sql.fetchval("SELECT fingerprint FROM certificate ORDER BY generation DESC LIMIT 1")
        assert before != newest
        assert newest == await served(site.program)
    finally:
        agent.kill()


@pytest.fixture
async def polling(plane, tmp_path):
    """A Traefik without an agent, as its page has it."""
    home = tmp_path / "host"
    home.mkdir()
    provider, grants = (
        yaml.safe_load(block) for block in blocks(section(DOCS / "targets" / "traefik.md", WITHOUT), "yaml")
    )
    server_ca = authority("admin")
    certificate, key = server_ca.issue(dns=["localhost"], ips=[HOST]).write(home, "admin")
    plane.settings["admin"] = {
        "listen": f"{HOST}:{free_port()}",
        "certificate": str(certificate),
        "key": str(key),
    }
    (grant,) = grants["grants"]
    plane.settings["grants"] = [grant | {"identity": IDENTITY}]
    http = provider["providers"]["http"]
    http["endpoint"] = http["endpoint"].replace("certvoy.example.com:8445", plane.settings["admin"]["listen"])
    http["pollInterval"] = "200ms"
    mine, its_key = plane.clients.issue(uris=[IDENTITY]).write(home, "edge-1")
    http["tls"] = {"ca": str(server_ca.write(home / "ca.pem")), "cert": str(mine), "key": str(its_key)}
    program = traefik.Traefik(home, http=http)
    yield program
    await program.stop()


@pytest.mark.timeout(600)
async def test_without_an_agent_traefik_polls_and_is_proved_by_a_handshake(plane, polling, sql):
    await plane.start()
    await polling.start()
    _, command = blocks(section(DOCS / "targets" / "traefik.md", WITHOUT), "sh")
    command = command.replace("spiffe://example.com/edge-1", IDENTITY)
    command = command.replace("edge-1.example.com:443", polling.address)
    code, said = await plane.command(*command.split()[1:])
    assert 0 == code, said
    await until(completed(sql, 1))

    async with Traffic(polling.address, DOMAIN) as traffic:
        for generation in range(2, ROTATIONS + 2):
            await plane.command("rotate", "www")
            await until(completed(sql, generation))
        seconds = await told(sql, traffic, "traefik, HTTP provider")
        assert ROTATIONS == len(seconds)

        # Certvoy away: Traefik goes on with what it has.
        await plane.stop()
        plane.child = None
        await traffic.more(100)
    assert (0, 0, 0) == (traffic.failed, traffic.cut, traffic.broken), traffic.errors
    newest = await sql.fetchval("SELECT fingerprint FROM certificate ORDER BY generation DESC LIMIT 1")
    assert newest == await served(polling)
