"""docs/how-to/from-*.md, line by line in one shell: what runs is moved to certvoy, and users see no gap.

A page's variables alone are changed. Caddy stands in for the CA: it asks at port 80 of what is moved.
"""

import asyncio
import hashlib
import os
import shutil
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import Child, free_port
from tests.support import debian
from tests.support.pages import DOCS, Shell, blocks, declared, steps
from tests.support.pki import authority

FROM_FILES = DOCS / "how-to" / "from-file-certificates.md"
FROM_CERTBOT = DOCS / "how-to" / "from-certbot.md"
PROGRAMS = Path(sys.executable).parent
HOST = "127.0.0.1"
DOMAIN = "www.example.com"
PACE_S = 0.02


def address():
    return f"{HOST}:{free_port()}"


class Users:
    """Handshakes one after another, from the first that succeeds until the end."""

    def __init__(self, where):
        """Begin at ``where``, when somebody listens there."""
        host, port = where.split(":")
        self._where = host, int(port)
        self._ended = threading.Event()
        self._running = threading.Thread(target=self._run)
        self.leaves = []
        self.failures = []
        self.first = threading.Event()
        self._running.start()

    def _run(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not self._ended.wait(PACE_S):
            try:
                with (
                    socket.create_connection(self._where, timeout=10) as plain,
                    context.wrap_socket(plain, server_hostname=DOMAIN) as secured,
                ):
                    leaf = hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()
            except OSError as e:
                if self.leaves:
                    self.failures.append(e)
                continue
            if leaf not in self.leaves:
                self.leaves.append(leaf)
            self.first.set()

    def end(self):
        self._ended.set()
        self._running.join()


@pytest.fixture
def users():
    started = []

    def begin(where):
        started.append(Users(where))
        return started[-1]

    yield begin
    for each in started:
        each.end()


@pytest.fixture
def plain():
    """The port 80 of what is moved: the CA asks there."""
    return address()


@pytest.fixture
def ca(tmp_path, plain):
    caddy = asyncio.run(Caddy.start(tmp_path / "caddy", responder=plain))
    yield caddy
    asyncio.run(caddy.stop())


@pytest.fixture
def shell(tmp_path, ca):
    """One on a machine that trusts the CA."""
    if missing := [tool for tool in ("curl", "openssl", "patch") if shutil.which(tool) is None]:
        pytest.skip(f"{missing[0]} is not here")
    directory, own = tmp_path / "page", tmp_path / "bin"
    directory.mkdir()
    own.mkdir()
    shell = Shell(directory, path=[own, PROGRAMS], env={"SSL_CERT_FILE": str(ca.ca_file)})
    yield shell
    shell.end()


def certvoy_at(ca):
    """The variables that both pages have."""
    return {"DIRECTORY": ca.directory_url, "RESPONDER": address(), "SDS": address(), "API": address()}


@pytest.mark.timeout(600)
def test_an_envoy_with_files_is_moved_without_a_gap(shell, ca, plain, users, tmp_path):
    """Its users see two certificates, the old one and the CA's, and no handshake fails."""
    variables, *moves, end = steps(FROM_FILES.read_text())
    chain, key = authority("Bought").intermediate("Below").issue([DOMAIN]).write(tmp_path / "page", "bought")
    chain.rename(tmp_path / "page" / "www.crt")
    key.rename(tmp_path / "page" / "www.key")
    web = address()
    values = {"WEB": web, "PROBE": web, "PLAIN": plain, "BASE_ID": free_port()}
    shell.run(declared(variables.commands, certvoy_at(ca) | values))
    seen = users(web)
    for step in moves:
        shell.follow(step)
    seen.end()
    shell.follow(end)

    assert [] == seen.failures
    assert 2 == len(seen.leaves)


def of_debian(name):
    try:
        return debian.program(name, of=name)
    except debian.Unavailable as e:
        pytest.skip(str(e))


@pytest.fixture
def certbot(tmp_path, ca, shell):
    """Its command on the shell's PATH; returns what stands for /etc/letsencrypt."""
    program = of_debian("certbot")
    unpacked = "" if shutil.which("certbot") else f"export PYTHONPATH={debian.modules('certbot')}"
    command = tmp_path / "bin" / "certbot"
    command.write_text(f"""#!/bin/sh
{unpacked}
export REQUESTS_CA_BUNDLE={ca.ca_file} PYTHONWARNINGS=ignore
exec {program} --config-dir {tmp_path}/letsencrypt --work-dir {tmp_path}/work --logs-dir {tmp_path}/logs "$@"
""")
    command.chmod(0o755)
    return tmp_path / "letsencrypt"


class Nginx:
    """An nginx with one site; its command is on the shell's PATH."""

    def __init__(self, directory, scratch):
        """Put the command ``nginx`` into ``directory``, and all else below ``scratch``."""
        self.site, self.listen = scratch / "site", address()
        self._log, self._pid = scratch / "nginx.log", scratch / "nginx.pid"
        config = scratch / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {scratch}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(f"""
{user} daemon off; worker_processes 1; pid {self._pid}; events {{}}
http {{ {temporary} access_log off; include {self.site}; }}
""")
        self.command = directory / "nginx"
        program = of_debian("nginx")
        self.command.write_text(f"""#!/bin/sh
exec {program} -p {scratch} -e {scratch}/error.log -c {config} "$@"
""")
        self.command.chmod(0o755)
        self._child = None

    async def start(self, site):
        async def running():
            return bool(self._pid.read_text())

        self.site.write_text(site)
        self._child = Child("nginx", [self.command], log=self._log)
        await self._child.ready(running)

    async def stop(self):
        if self._child is not None:
            await self._child.stop()


@pytest.fixture
def nginx(shell, ca, plain, certbot, tmp_path):
    """One that serves the page's site, with a certificate of certbot's."""
    scratch, root = tmp_path / "nginx", tmp_path / "webroot"
    scratch.mkdir()
    root.mkdir()
    nginx = Nginx(tmp_path / "bin", scratch)
    (site,) = blocks(FROM_CERTBOT.read_text(), "nginx")
    for old, new in (
        ("listen 80;", f"listen {plain};"),
        ("listen 443 ssl;", f"listen {nginx.listen} ssl;"),
        ("/etc/letsencrypt", str(certbot)),
        ("/var/www/html", str(root)),
    ):
        assert old in site
        site = site.replace(old, new)
    asyncio.run(nginx.start(site[: site.index("server {", 1)]))
    try:
        order = f"certonly --webroot -w {root} -d {DOMAIN} --server {ca.directory_url}"
        shell.run(f"certbot {order} -n --agree-tos -m ops@example.com")
        nginx.site.write_text(site)
        shell.run("nginx -s reload")
        yield nginx
    finally:
        asyncio.run(nginx.stop())


@pytest.mark.debian
@pytest.mark.timeout(600)
def test_an_nginx_with_certbot_is_moved_without_a_gap(shell, ca, certbot, nginx, users):
    """Its users see two certificates, certbot's and certvoy's, and no handshake fails."""
    variables, *moves, end = steps(FROM_CERTBOT.read_text())
    seen = users(nginx.listen)
    seen.first.wait()
    own = certbot.parent
    values = {
        "LIVE": certbot / "live" / DOMAIN,
        "RENEWAL": certbot / "renewal",
        "SITE": nginx.site,
        "LISTEN": nginx.listen,
        "PAIR": own / "tls",
        "STATE": own / "state",
        "SCRIPT": own / "certvoy-nginx",
        "PAGE": DOCS / "targets" / "nginx-with-curl.md",
    }
    shell.run(declared(variables.commands, certvoy_at(ca) | values))
    for step in moves:
        shell.follow(step)
    seen.end()
    shell.follow(end)

    assert [] == seen.failures
    assert 2 == len(seen.leaves)
