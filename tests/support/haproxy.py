"""A real HAProxy of Debian on loopback, which says hello over TLS."""

from pathlib import Path

from sds_server.programs.child import Child, free_port
from tests.support import debian

HOST = "127.0.0.1"

_CONFIGURATION = """\
global
    stats socket {socket} mode 600 level admin expose-fd listeners
    {settings}
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend www
    bind {host}:{port} {bind}
    http-request return status 200 content-type text/plain string hello
"""


class HAProxy:
    """One HAProxy, master and worker; ``bind`` is what its bind line says after the address."""

    def __init__(self, directory: Path, bind: str, settings: str = "") -> None:
        self.directory, self.port = directory, free_port()
        self.socket = directory / "haproxy.sock"
        self.config = directory / "haproxy.cfg"
        self.pid_file = directory / "haproxy.pid"
        program = str(debian.program("haproxy", of="haproxy"))
        libraries = [f"{name}={value}" for name, value in debian.environment("haproxy").items()]
        self.command = ["env", *libraries, program, "-f", str(self.config)]
        self.write(
            _CONFIGURATION.format(socket=self.socket, host=HOST, port=self.port, bind=bind, settings=settings)
        )
        self.child: Child | None = None

    def write(self, configuration: str) -> None:
        self.config.write_text(configuration)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        already = self._loaded()
        self.child = Child(
            "haproxy",
            [*self.command, "-W", "-db", "-p", self.pid_file],
            log=self.directory / "haproxy.log",
        )

        async def answers() -> bool:
            return self._loaded() > already  # a master that still loads takes no signal

        await self.child.ready(answers)

    def _loaded(self) -> int:
        log = self.directory / "haproxy.log"
        return log.read_text().count("Loading success") if log.exists() else 0

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop()
            self.child = None
