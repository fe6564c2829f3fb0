"""Real programs that an agent stands beside, each made to refuse what it is given when a test says so."""

import os
import shlex
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from sds_server.agent.installers.traefik import MARK
from sds_server.programs.caddy import Caddy as CaddyCa
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import between, caddy, debian, haproxy, traefik
from tests.support.control_plane import ControlPlane, dsn

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]
NAMES = ("www.example.test", "api.example.test")


@asynccontextmanager
async def control_plane(connect, directory):
    """One with a CA and a port for agents, where only a target completes; not started yet."""
    http01_port = free_port()
    ca = await CaddyCa.start(directory / "caddy", responder=f"{HOST}:{http01_port}")
    plane = ControlPlane(directory, database=dsn(connect), http01_port=http01_port)
    plane.issuer(ca.directory_url, ca.ca_file)
    plane.root = ca.ca_file
    plane.settings["rotation"]["settle"] = "1h"
    for setting in ("certificate", "key", "client_ca"):
        del plane.settings["sds"][setting]
    plane.settings["admin"] = {"listen": f"{HOST}:{free_port()}"}
    yield plane
    if plane.child is not None:
        await plane.stop()
    await ca.stop()


def agent(home):
    """The agent of a host, as a process of its own, by its agent.yaml."""
    argv = [sys.executable, "-m", "sds_server", "agent", "--config", home / "agent.yaml"]
    return Child("agent", argv, log=home / "agent.log", cwd=ROOT, pdeathsig="KILL")


class Subject:
    """A program that serves TLS, and how an agent is told of it.

    What a new one gives: `kind`, `settings`, `start`, `spoil` and the `WORDS` that it says then, `mend`;
    and, where what tells it can be made to fail (`loads`), `refuse` with its `LOAD_WORDS`, and `deafen`.
    """

    kind = ""
    variant = False
    """Another way to tell a program that is there already."""

    loads = True
    WORDS = ""
    LOAD_WORDS = "told to fail"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"
        self.child: Child | None = None

    @property
    def directory(self) -> Path:
        """Where its pair lies."""
        return self.home / "pair"

    def settings(self):
        """Its section of agent.yaml: {kind: ...}."""
        raise NotImplementedError

    def bundle(self):
        """Its entry in `bundles` of agent.yaml."""
        return {
            "secret": "www",
            "target": "web-1",
            "directory": str(self.directory),
            "names": [NAMES[0]],
            "probe": {"address": self.address, "within": "3s"},
            **self.settings(),
        }

    async def start(self):
        """Start it, with the pair that lies there."""
        raise NotImplementedError

    async def stop(self):
        if self.child is not None:
            await self.child.stop()
            self.child = None

    def spoil(self):
        """From now on its check refuses whatever lies there."""
        raise NotImplementedError

    def refuse(self):
        """From now on its check passes, and what tells it fails."""
        (self.home / "refuses").touch()

    def deafen(self):
        """From now on it is told, says yes, and goes on with what it has."""
        (self.home / "is-deaf").touch()

    def mend(self):
        """It is well again."""
        for flag in ("refuses", "is-deaf"):
            (self.home / flag).unlink(missing_ok=True)

    async def served(self, name=NAMES[0]):
        """The leaf that a client sees; None: nobody listens."""
        try:
            return await served_fingerprint(self.address, name)
        except ProbeFailed:
            return None


class Nginx(Subject):
    """nginx with the two files in its configuration."""

    kind = "nginx"
    WORDS = "unknown directive"

    def __init__(self, home):
        super().__init__(home)
        self.config = home / "nginx.conf"
        binary = debian.program("nginx", of="nginx")
        self.command = [str(binary), "-p", str(home), "-e", str(home / "error.log"), "-c", str(self.config)]
        # What stands between: nginx itself cannot be made to refuse a reload whose check it has passed.
        self.told = home / "nginx"
        self.told.write_text(f"""#!/bin/sh
case "$*" in *"-s reload"*)
  if [ -e {home}/refuses ]; then echo "{self.LOAD_WORDS}" >&2; exit 1; fi
  if [ -e {home}/is-deaf ]; then exit 0; fi ;;
esac
exec {shlex.join(self.command)} "$@"
""")
        self.told.chmod(0o755)
        self.configure()

    def settings(self):
        return {"nginx": {"command": [str(self.told)]}}

    @property
    def lines(self):
        current = self.directory / "current"
        return f"ssl_certificate {current}/fullchain.pem; ssl_certificate_key {current}/key.pem;"

    def configure(self, directives=""):
        user = "user root;" if os.getuid() == 0 else ""
        scratch = "".join(
            f"{kind}_temp_path {self.home}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.config.write_text(f"""
{user} daemon off; worker_processes 2; pid {self.home}/nginx.pid; events {{}}
http {{
{scratch} access_log off; {directives}
server {{ listen {HOST}:{self.port} ssl; server_name {" ".join(NAMES)}; {self.lines}
  location / {{ return 200 "hello\\n"; }} }}
}}
""")

    async def start(self):
        self.child = Child("nginx", self.command, log=self.home / "nginx.log", stop_signal=3)

        async def answers():
            return await self.served() is not None

        await self.child.ready(answers)

    def spoil(self):
        self.configure("no_such_directive on;")

    def mend(self):
        super().mend()
        self.configure()


class SignalledNginx(Nginx):
    """nginx that is sent SIGHUP."""

    variant = True
    loads = False  # it is no program that tells it, so none can be made to fail

    def settings(self):
        return {"nginx": {"command": [str(self.told)], "pid_file": str(self.home / "nginx.pid")}}


class VariableNginx(Nginx):
    """nginx that reads the pair anew at each handshake, by the name that is asked for."""

    variant = True
    loads = False

    @property
    def directory(self):
        return self.home / "pairs" / NAMES[0]

    def settings(self):
        return {"nginx": {"command": [str(self.told)], "reload": False}}

    @property
    def lines(self):
        pairs = self.home / "pairs"
        pairs.mkdir(exist_ok=True)
        other = pairs / NAMES[1]
        if not other.is_symlink():
            other.symlink_to(NAMES[0])
        file = f"{pairs}/$ssl_server_name/current/combined.pem"
        return f"ssl_certificate {file}; ssl_certificate_key {file};"


class Files(Nginx):
    """The same nginx, told by commands of the user's own."""

    kind = "files"

    def settings(self):
        told = str(self.told)
        return {"files": {"check": [told, "-t"], "command": [told, "-s", "reload"]}}


class HAProxy(Subject):
    """HAProxy, told over its stats socket."""

    kind = "haproxy"
    WORDS = "no-such-keyword"

    def __init__(self, home):
        super().__init__(home)
        self.program = haproxy.HAProxy(home, f"ssl crt {self.directory}/current/combined.pem")
        self.port, self.address = self.program.port, self.program.address
        self.configuration = self.program.config.read_text()
        self.told = between.RuntimeApi(
            home / "told.sock",
            self.program.socket,
            refuses=(home / "refuses").exists,
            is_deaf=(home / "is-deaf").exists,
            words=self.LOAD_WORDS,
        )

    def settings(self):
        return {"haproxy": {"command": self.program.command, "socket": str(self.told.path)}}

    async def start(self):
        await self.program.start()
        await self.told.start()

    async def stop(self):
        await self.told.stop()
        await self.program.stop()

    def spoil(self):
        self.program.write("no-such-keyword\n" + self.configuration)

    def mend(self):
        super().mend()
        self.program.write(self.configuration)


class ReloadedHAProxy(HAProxy):
    """HAProxy whose master is sent SIGUSR2."""

    variant = True
    loads = False  # it is no program that tells it, so none can be made to fail

    def settings(self):
        return {"haproxy": {"command": self.program.command, "pid_file": str(self.program.pid_file)}}


class Traefik(Subject):
    """Traefik with its file provider."""

    kind = "traefik"
    WORDS = "somebody else wrote it"
    LOAD_WORDS = "has not taken it"

    def __init__(self, home):
        super().__init__(home)
        self.program = traefik.Traefik(home)
        self.port, self.address = self.program.port, self.program.address
        self.file = home / "told.yml"
        self.between = [
            between.Copies(
                self.file, self.program.dynamic / "www.yml", stops=lambda: self.refuses or self.is_deaf
            ),
            api := between.Http(self.program.api, self._lie),
        ]
        self.api = api.url

    @property
    def refuses(self):
        return (self.home / "refuses").exists()

    @property
    def is_deaf(self):
        return (self.home / "is-deaf").exists()

    def _lie(self, _request):
        return web.json_response({}) if self.is_deaf else None

    def settings(self):
        return {"traefik": {"file": str(self.file), "api": self.api, "within": "2s"}}

    async def start(self):
        await self.between[0].start()
        await self.program.start()
        await self.between[1].start()

        async def answers():
            return await self.served() is not None

        await self.program.child.ready(answers)

    async def stop(self):
        for part in self.between:
            await part.stop()
        await self.program.stop()

    def spoil(self):
        self.file.write_text(self.file.read_text().removeprefix(MARK))

    def mend(self):
        super().mend()
        text = self.file.read_text()
        self.file.write_text(text if text.startswith(MARK) else MARK + text)


class Caddy(Subject):
    """Caddy, told over its admin API."""

    kind = "caddy"
    WORDS = "unrecognized directive: no_such_directive"

    def __init__(self, home):
        super().__init__(home)
        current = self.directory / "current"
        self.program = caddy.Caddy(home, certificate=current / "fullchain.pem", key=current / "key.pem")
        self.port, self.address = self.program.port, self.program.address
        self.configuration = self.program.config.read_text()
        self.told = between.Http(
            "http://localhost", self._lie, unix=Path(self.program.admin.removeprefix("unix/"))
        )

    def _lie(self, request):
        if request.method == "POST" and (self.home / "refuses").exists():
            return web.json_response({"error": self.LOAD_WORDS}, status=400)
        return web.Response() if request.method == "POST" and (self.home / "is-deaf").exists() else None

    def settings(self):
        return {"caddy": {"admin": self.told.url, "check": self.program.validate}}

    async def start(self):
        await self.program.start()
        await self.told.start()

    async def stop(self):
        await self.told.stop()
        await self.program.stop()

    def spoil(self):
        self.program.config.write_text(self.configuration.replace("respond", "no_such_directive"))

    def mend(self):
        super().mend()
        self.program.config.write_text(self.configuration)


SUBJECTS = {
    "nginx": Nginx,
    "nginx-signalled": SignalledNginx,
    "nginx-variable": VariableNginx,
    "files": Files,
    "haproxy": HAProxy,
    "haproxy-reloaded": ReloadedHAProxy,
    "traefik": Traefik,
    "caddy": Caddy,
}
"""Every program of the conformance suite; a new one is entered here."""
