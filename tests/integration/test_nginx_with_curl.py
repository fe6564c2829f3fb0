"""docs/targets/nginx-with-curl.md, run as it stands: real nginx, curl, openssl and control plane."""

import asyncio
import json
import os
import re
import shutil
import time

import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import debian
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.pages import DOCS, blocks, section
from tests.support.pki import authority

pytestmark = pytest.mark.debian

PAGE = DOCS / "targets" / "nginx-with-curl.md"
DOMAIN = "www.example.test"
IDENTITY = "spiffe://example.test/web-1"


def declared(**values):
    """The page's variables, each with a value of this test in place of the page's, and no other."""
    text, _ = blocks(section(PAGE, "Once"))
    names = re.findall(r"^([A-Z]+)=", text, re.MULTILINE)
    assert set(names) == set(values)
    return "".join(f"{name}='{values[name]}'\n" for name in names)


class Host:
    """A web server's machine: an nginx, a client certificate, and the page's script."""

    def __init__(self, directory, plane, nginx):
        self.directory, self.port = directory, free_port()
        self.pair = directory / "tls"
        self.config = directory / "nginx.conf"
        server_ca = authority("admin")
        server_ca.write(directory / "ca.crt")
        self.admin = server_ca.issue(dns=["localhost"], ips=[HOST]).write(directory, "admin")
        certificate, _ = plane.clients.issue(uris=[IDENTITY]).write(directory, "client")
        certificate.rename(directory / "client.crt")
        self.nginx = [str(nginx), "-p", str(directory), "-e", str(directory / "error.log")]
        self.child = None
        self.variables = {
            "SECRET": "www",
            "DOMAIN": DOMAIN,
            "TARGET": "web-1",
            "LISTEN": f"{HOST}:{self.port}",
            "CERT": str(directory / "client.crt"),
            "KEY": str(directory / "client.key"),
            "CA": str(directory / "ca.crt"),
            "PAIR": str(self.pair),
            "COMMAND": " ".join([*self.nginx, "-c", str(self.config)]),
        }

    def configure(self, directives=""):
        """Write nginx's configuration, with the page's two lines in it."""
        (lines,) = blocks(PAGE.read_text(), "nginx")
        user = "user root;" if os.getuid() == 0 else ""
        scratch = "".join(
            f"{kind}_temp_path {self.directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        lines = lines.replace("/etc/nginx/tls", str(self.pair))
        self.config.write_text(f"""
{user} daemon off; worker_processes 1; pid {self.directory}/nginx.pid; events {{}}
http {{
{scratch} access_log off; {directives}
server {{ listen {HOST}:{self.port} ssl; {lines} return 200 "hello"; }}
}}
""")

    async def round(self):
        """Run the page's blocks of "Each time", as one script."""
        lines = "".join(blocks(section(PAGE, "Each time")))
        assert "wait=55" in lines
        return await self.run(lines.replace("wait=55", "wait=1"))

    async def run(self, lines):
        """Run lines under the page's variables; return the exit code and what they printed."""
        script = self.directory / "certvoy-nginx"
        script.write_text(declared(**self.variables) + lines)
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            script,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.directory,
        )
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
        return process.returncode, output.decode()

    async def start(self):
        self.child = Child(
            "nginx",
            [*self.nginx, "-c", self.config],
            log=self.directory / "nginx.log",
        )
        await self.child.ready(self.serves, timeout_s=180)

    async def serves(self):
        """The leaf that a client sees; None: nobody listens."""
        try:
            return await served_fingerprint(f"{HOST}:{self.port}", DOMAIN)
        except ProbeFailed:
            return None


@pytest.fixture
def nginx():
    try:
        return debian.program("nginx", of="nginx")
    except debian.Unavailable as e:
        pytest.skip(str(e))


@pytest.fixture
async def ca(tmp_path):
    http01_port = free_port()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{http01_port}")
    caddy.http01_port = http01_port
    yield caddy
    await caddy.stop()


@pytest.fixture
async def plane(ca, connect, tmp_path):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=ca.http01_port)
    plane.issuer(ca.directory_url, ca.ca_file)
    plane.settings["rotation"]["settle"] = "1h"  # only a target completes
    yield plane
    if plane.child is not None:
        await plane.stop()


@pytest.fixture
async def host(plane, nginx, tmp_path):
    if missing := [tool for tool in ("curl", "openssl") if shutil.which(tool) is None]:
        pytest.skip(f"{missing[0]} is not here")
    directory = tmp_path / "host"
    directory.mkdir()
    host = Host(directory, plane, nginx)
    port = free_port()
    host.variables["CERTVOY"] = f"https://{HOST}:{port}"
    certificate, key = host.admin
    plane.settings["admin"] = {
        "listen": f"{HOST}:{port}",
        "certificate": str(certificate),
        "key": str(key),
    }
    plane.settings["grants"] = [{"identity": IDENTITY, "names": ["www"]}]
    yield host
    if host.child is not None:
        await host.child.stop()


async def test_the_page_serves_rotates_proves_and_keeps_what_works(host, plane, sql):
    async def open_rotations():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NULL")

    async def newest():
        return await sql.fetchval("SELECT fingerprint FROM certificate ORDER BY generation DESC LIMIT 1")

    async def complete():
        return await open_rotations() == 0

    async def first_pair():
        return await newest() is not None

    await plane.start()
    await until(first_pair)

    # The first pair takes the place of the stopgap.
    host.configure()
    _, stopgap = blocks(section(PAGE, "Once"))
    code, said = await host.run(stopgap)
    assert 0 == code, said
    await host.start()
    code, said = await host.round()
    assert 0 == code, said
    await until(complete)
    first = await newest()
    assert first == await host.serves()
    assert 0o600 == (host.pair / "current.pem").stat().st_mode & 0o777

    # A rotation: the new leaf is served, and the agent's handshake completes it.
    code, said = await plane.command("rotate", "www")
    assert 0 == code, said
    code, said = await host.round()
    assert 0 == code, said
    await until(complete)
    second = await newest()
    assert first != second
    assert second == await host.serves()
    assert "completed" == await sql.fetchval("SELECT outcome FROM certrotation ORDER BY id DESC LIMIT 1")
    assert 2 == await sql.fetchval("SELECT proved FROM delivery")
    proofs = await sql.fetch("SELECT payload FROM certaudit WHERE action = 'delivery.proved'")
    assert ["agent", "agent"] == [json.loads(proof["payload"])["by"] for proof in proofs]

    # Once an hour it looks again, and says so.
    await sql.execute("UPDATE delivery SET said_at = now() - interval '4 hours'")
    code, said = await host.round()
    assert 0 == code, said
    assert ("unseen", 2) == await told(plane)
    an_hour_ago = time.time() - 3700
    os.utime(host.pair / "etag", (an_hour_ago, an_hour_ago))
    code, said = await host.round()
    assert 0 == code, said
    assert ("proved", 2) == await told(plane)
    assert second == await host.serves()
    assert [] == [*host.pair.glob("old.pem")]
    assert (host.pair / "etag").stat().st_mtime > an_hour_ago + 60
    assert (host.pair / "etag").read_text()

    # nginx refuses what comes next: the old one is served on, current again, and the reason is told.
    host.configure("no_such_directive on;")
    await plane.command("rotate", "www")
    code, said = await host.round()
    assert 1 == code, said
    assert second == await host.serves()

    async def taken_back():
        return await told(plane) == ("proved", 2)

    await until(taken_back)
    _, why = await plane.command("why", "www")
    assert "unknown directive" in why
    assert 1 == await open_rotations()

    # Mended, the next one comes in.
    host.configure()
    await plane.command("rotate", "www")
    code, said = await host.round()
    assert 0 == code, said
    await until(complete)
    assert await newest() == await host.serves()


async def told(plane):
    """What is known of the target now: its state, and the generation that it should serve."""
    code, said = await plane.command("targets", "show", "web-1", "--json")
    assert 0 == code, said
    (delivery,) = json.loads(said)["deliveries"]
    return delivery["state"], delivery["current"]
