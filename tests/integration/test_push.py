"""Push with real programs: an nginx whose agent reaches nobody is rotated by what is brought to it."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import debian
from tests.support.control_plane import HOST, ControlPlane, dsn, until

pytestmark = pytest.mark.debian

ROOT = Path(__file__).parents[2]
DOMAIN = "www.example.test"
IDENTITY = "spiffe://certvoy/proxy/web-1"


class Host:
    """An nginx and its agent, in one directory."""

    def __init__(self, home, nginx):
        self.home, self.port, self.push_port = home, free_port(), free_port()
        self.command = [
            str(nginx),
            "-p",
            str(home),
            "-e",
            str(home / "error.log"),
            "-c",
            str(home / "nginx.conf"),
        ]
        self.pair = home / "pair"
        self.children = []

    def configure(self, directives=""):
        user = "user root;" if os.getuid() == 0 else ""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        scratch = "".join(f"{kind}_temp_path {self.home}/{kind};\n" for kind in kinds)
        current = self.pair / "current"
        (self.home / "nginx.conf").write_text(f"""
{user} daemon off; worker_processes 1; pid {self.home}/nginx.pid; events {{}}
http {{
{scratch} access_log off; {directives}
server {{ listen {HOST}:{self.port} ssl; ssl_certificate {current}/fullchain.pem;
ssl_certificate_key {current}/key.pem; return 200 "hello"; }}
}}
""")

    def agent_yaml(self, server):
        """The agent's configuration, for a control plane at this address."""
        bundle = {
            "secret": "www",
            "directory": str(self.pair),
            "probe": {"address": f"{HOST}:{self.port}", "within": "5s"},
            "nginx": {"command": self.command},
        }
        settings = {
            "server": server,
            "credentials": str(self.home / "credentials"),
            "listen": f"{HOST}:{self.push_port}",
            "bundles": [bundle],
        }
        (self.home / "agent.yaml").write_text(yaml.safe_dump(settings))

    def start(self, name, argv):
        child = Child(name, argv, log=self.home / f"{name}.log", cwd=ROOT, pdeathsig="KILL")
        self.children.append(child)
        return child

    async def start_agent(self):
        argv = [sys.executable, "-m", "sds_server", "agent", "--config", self.home / "agent.yaml"]

        async def listens():
            try:
                _, writer = await asyncio.open_connection(HOST, self.push_port)
            except OSError:
                return False
            writer.close()
            return True

        await self.start("agent", argv).ready(listens, timeout_s=180)

    async def start_nginx(self):
        async def serves():
            return await self.serves() is not None

        await self.start("nginx", self.command).ready(serves, timeout_s=180)

    async def serves(self):
        try:
            return await served_fingerprint(f"{HOST}:{self.port}", DOMAIN)
        except ProbeFailed:
            return None


@pytest.fixture
async def plane(connect, tmp_path):
    http01_port = free_port()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{http01_port}")
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=http01_port)
    plane.issuer(caddy.directory_url, caddy.ca_file)
    plane.settings["rotation"]["settle"] = "1h"  # only a target completes
    for setting in ("certificate", "key", "client_ca"):
        del plane.settings["sds"][setting]
    plane.settings["admin"] = {"listen": f"{HOST}:{free_port()}"}
    plane.settings["push"] = {"allow": ["127.0.0.0/8"]}
    yield plane
    if plane.child is not None:
        await plane.stop()
    await caddy.stop()


@pytest.fixture
async def host(tmp_path):
    (tmp_path / "host").mkdir()
    try:
        host = Host(tmp_path / "host", debian.program("nginx", of="nginx"))
    except debian.Unavailable as e:
        pytest.skip(str(e))
    yield host
    for child in host.children:
        await child.stop()


@pytest.mark.timeout(600)
async def test_an_nginx_whose_agent_reaches_nobody_is_rotated_by_push(plane, host, sql):
    async def completed():
        open_, done = await sql.fetchrow(
            "SELECT count(*) FILTER (WHERE completed_at IS NULL), count(*) FROM certrotation"
        )
        return done > 0 and open_ == 0

    async def ran(*words):
        code, said = await plane.command(*words)
        assert 0 == code, said
        return said

    # It enrols, and is cut off: from now on it hears what is pushed alone.
    await plane.start()
    token = (await ran("proxies", "enroll", "web-1", "--secret", "www")).strip().splitlines()[-1]
    server = f"https://{plane.settings['admin']['listen']}"
    enrol = [
        "agent",
        "--credentials",
        host.home / "credentials",
        "--server",
        server,
        "--token",
        token,
        "--once",
    ]
    once = await asyncio.create_subprocess_exec(sys.executable, "-m", "sds_server", *enrol, cwd=ROOT)
    assert 0 == await once.wait()
    host.configure()
    host.agent_yaml("https://127.0.0.1:1")
    await host.start_agent()
    push = ("--push", f"https://{HOST}:{host.push_port}", "--kind", "nginx")
    await ran("targets", "add", "web-1", "--identity", IDENTITY, "--secret", "www", *push)

    # The first pair comes before nginx does; once that runs, the agent is asked again and has seen it.
    await until(lambda: asyncio.to_thread((host.pair / "current").exists))
    await host.start_nginx()
    await until(completed)
    first = await host.serves()
    tested = json.loads(await ran("targets", "test", "web-1", "--json"))
    assert {"ok", "skipped"} == {item["result"] for item in tested}, tested

    # A rotation.
    await ran("rotate", "www")
    await until(completed)
    second = await host.serves()
    assert first != second
    assert 2 == await sql.fetchval("SELECT proved FROM delivery")
    assert "agent" == await sql.fetchval("SELECT proved_by FROM delivery")
    took = await sql.fetchval(
        "SELECT d.proved_at - c.issued_at FROM delivery d JOIN certificate c ON c.generation = d.proved"
    )
    print(f"from stored to proved by push: {took.total_seconds():.2f} s")
    assert took.total_seconds() < 20

    # nginx refuses what comes next: it serves on what it has, and says why.
    host.configure("no_such_directive on;")
    await ran("rotate", "www")

    async def refused():
        return b"unknown directive" in (await plane.command("why", "www"))[1].encode()

    await until(refused)
    assert second == await host.serves()
    code, said = await plane.command("targets", "test", "web-1")
    assert (1, True) == (code, "unknown directive" in said)

    # Somebody else on its port is named, and told nothing.
    (agent,) = [child for child in host.children if child.name == "agent"]
    await agent.stop()
    host.children.remove(agent)
    code, said = await plane.command("targets", "test", "web-1")
    assert (1, True) == (code, "connection" in said)
