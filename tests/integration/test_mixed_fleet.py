"""One secret at two Envoys, nginx, HAProxy and Traefik: a rotation is complete when all five are proved."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml

from sds_server.agent.files import CredentialFiles
from sds_server.agent.installers.haproxy_socket import RuntimeApi
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import beside, debian, edge, haproxy, traefik
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.pki import authority

pytestmark = pytest.mark.debian

ROOT = Path(__file__).parents[2]
DOMAIN = "www.example.test"
HOST_IDENTITY = "spiffe://example.test/host"
TARGETS = {"edge-1", "edge-2", "nginx-1", "haproxy-1", "traefik-1"}


class Nginx(beside.Nginx):
    @property
    def directory(self):
        return self.home / "nginx-1"


class Fleet:
    """Two Envoys, and three programs with one agent."""

    def __init__(self, home, plane):
        self.home, self.plane = home, plane
        (home / "traefik").mkdir()
        self.envoys = [edge.Edge(home, plane, name=name) for name in ("edge-1", "edge-2")]
        self.nginx = Nginx(home)
        self.haproxy = haproxy.HAProxy(home, f"ssl crt {home}/haproxy-1/current/combined.pem")
        self.traefik = traefik.Traefik(home / "traefik")
        self.agent = None

    def write(self):
        """The agent's file, and a credential of the CA that the control plane believes."""
        server_ca = authority("admin")
        certificate, key = server_ca.issue(dns=["localhost"], ips=[HOST]).write(self.home, "admin")
        self.plane.settings["admin"] = {
            "listen": f"{HOST}:{free_port()}",
            "certificate": str(certificate),
            "key": str(key),
        }
        self.plane.settings["grants"] = [
            *edge.grants("www"),
            {"identity": HOST_IDENTITY, "names": ["www"]},
        ]
        credential = self.plane.clients.issue(uris=[HOST_IDENTITY])
        CredentialFiles(self.home / "credentials").store(
            certificate_pem=credential.chain_pem.decode(),
            key_pem=credential.key_pem,
            authorities_pem=server_ca.pem.decode(),
        )
        programs = {
            "nginx-1": (self.nginx.address, self.nginx.settings()),
            "haproxy-1": (
                self.haproxy.address,
                {"haproxy": {"command": self.haproxy.command, "socket": str(self.haproxy.socket)}},
            ),
            "traefik-1": (
                self.traefik.address,
                {"traefik": {"file": str(self.traefik.dynamic / "www.yml"), "api": self.traefik.api}},
            ),
        }
        bundles = [
            {
                "secret": "www",
                "target": name,
                "directory": str(self.home / name),
                "probe": {"address": address, "within": "5s", "names": [DOMAIN]},
                **settings,
            }
            for name, (address, settings) in programs.items()
        ]
        (self.home / "agent.yaml").write_text(
            yaml.safe_dump(
                {
                    "server": f"https://{self.plane.settings['admin']['listen']}",
                    "credentials": str(self.home / "credentials"),
                    "bundles": bundles,
                }
            )
        )

    async def start(self):
        """The agent, and each program when its first pair is there."""
        argv = [sys.executable, "-m", "sds_server", "agent", "--config", self.home / "agent.yaml"]
        self.agent = Child("agent", argv, log=self.home / "agent.log", cwd=ROOT, pdeathsig="KILL")

        async def placed():
            names = ("nginx-1", "haproxy-1", "traefik-1")
            return all((self.home / name / "current").exists() for name in names)

        await self.agent.ready(placed, timeout_s=180)
        await asyncio.gather(*(part.start() for part in self.parts))
        for envoy in self.envoys:
            code, said = await self.plane.command(
                *["targets", "add", envoy.name, "--identity", edge.IDENTITY, "--node", envoy.name],
                *["--probe", f"{HOST}:{envoy.ports['www']}"],
            )
            assert 0 == code, said

    async def stop(self):
        if self.agent is not None:
            self.agent.kill()
        for part in self.parts:
            await part.stop()

    @property
    def parts(self):
        return [*self.envoys, self.nginx, self.haproxy, self.traefik]

    async def served(self):
        """What each serves now."""
        addresses = [f"{HOST}:{envoy.ports['www']}" for envoy in self.envoys]
        addresses += [self.nginx.address, self.haproxy.address, self.traefik.address]

        async def one(address):
            try:
                return await served_fingerprint(address, DOMAIN)
            except ProbeFailed:
                return None

        return await asyncio.gather(*map(one, addresses))


@pytest.fixture
async def plane(connect, tmp_path):
    http01_port = free_port()
    ca = await Caddy.start(tmp_path / "ca", responder=f"{HOST}:{http01_port}")
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=http01_port)
    plane.issuer(ca.directory_url, ca.ca_file)
    plane.settings["rotation"]["settle"] = "1h"  # only targets complete
    yield plane
    if plane.child is not None:
        await plane.stop()
    await ca.stop()


@pytest.fixture
async def fleet(plane, tmp_path):
    home = tmp_path / "fleet"
    home.mkdir()
    try:
        fleet = Fleet(home, plane)
    except debian.Unavailable as e:
        pytest.skip(str(e))
    fleet.write()
    yield fleet
    await fleet.stop()


@pytest.mark.timeout(600)
async def test_a_rotation_is_complete_when_all_five_are_proved_and_names_the_one_that_is_not(
    plane, fleet, sql
):
    async def proved(generation):
        rows = await sql.fetch(
            "SELECT coalesce(t.node_id, t.name) AS name FROM delivery d JOIN target t ON t.id = d.target_id"
            " WHERE d.proved = $1",
            generation,
        )
        return {row["name"] for row in rows}

    async def outcome(generation):
        return await sql.fetchval(
            "SELECT r.outcome FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
            " WHERE c.generation = $1",
            generation,
        )

    def all_proved(generation):
        async def holds():
            return await proved(generation) == TARGETS and await outcome(generation) == "completed"

        return holds

    async def newest():
        return await sql.fetchval("SELECT fingerprint FROM certificate ORDER BY generation DESC LIMIT 1")

    await plane.start()
    await fleet.start()
    await until(all_proved(1))

    # One rotation, five proofs.
    code, said = await plane.command("rotate", "www")
    assert 0 == code, said
    await until(all_proved(2))
    assert [await newest()] * 5 == await fleet.served()

    # HAProxy frozen: the others have the next one, the rotation stays open, and it is named.
    info = await RuntimeApi(fleet.haproxy.socket).say("show info")
    worker = int(re.search(r"^Pid: (\d+)", info, re.MULTILINE)[1])
    os.kill(worker, signal.SIGSTOP)
    try:
        await plane.command("rotate", "www")

        async def others():
            return await proved(3) == TARGETS - {"haproxy-1"}

        await until(others)
        assert await outcome(3) is None
        _, why = await plane.command("why", "www")
        assert "haproxy-1" in why
    finally:
        os.kill(worker, signal.SIGCONT)

    # Thawed it gets it as well.
    await until(all_proved(3))
    assert [await newest()] * 5 == await fleet.served()
