"""Where the API listens: a Unix socket on the machine itself, TLS for others, plain HTTP for health alone."""

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from sds_server.admin.callers import Callers
from sds_server.admin.routes import Route, application
from sds_server.admin.services import Services
from sds_server.config.values import Listen
from sds_server.errors import Unavailable

SHUTDOWN_S: Final = 5.0
KEEPALIVE_S: Final = 75.0
HANDSHAKE_S: Final = 10.0  # asyncio would wait for 60 s
BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it listens now; None: it does not."""

    api: int | None
    probes: int | None


class AdminServer:
    """Serves the routes until stopped."""

    def __init__(
        self,
        routes: Sequence[Route],
        services: Services,
        callers: Callers,
        *,
        socket_path: Path,
        listen: Listen | None = None,
        tls: ssl.SSLContext | None = None,
        probes: Listen | None = None,
    ) -> None:
        """Serve ``routes`` on the socket and, by ``tls``, on ``listen``; on ``probes`` those of health."""
        self._api = application(routes, services, callers)
        self._probes = application([route for route in routes if route.probe], services, None)
        self._socket_path = socket_path
        self._listen = listen
        self._tls = tls
        self._probes_listen = probes
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []

    async def start(self) -> Ports:
        """Listen, and return the ports.

        Raises:
            Unavailable: an address is taken, or another certvoy has this state directory.
        """
        api = await self._runner(self._api)
        await web.SockSite(api, bind(self._socket_path), backlog=BACKLOG).start()
        api_port = None
        if self._listen is not None:
            api_port = await self._serve(api, self._listen, self._tls, "admin.listen")
        probes_port = None
        if self._probes_listen is not None:
            probes = await self._runner(self._probes)
            probes_port = await self._serve(probes, self._probes_listen, None, "metrics.listen")
        return Ports(api=api_port, probes=probes_port)

    async def stop(self) -> None:
        """Let what is under way end, for a while, and close."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for runner in reversed(self._runners):
            await runner.cleanup()
        if self._runners:
            self._socket_path.unlink(missing_ok=True)
        self._runners.clear()

    async def _serve(
        self, runner: web.AppRunner, listen: Listen, tls: ssl.SSLContext | None, setting: str
    ) -> int:
        server = await _site(runner, listen, tls, setting)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=KEEPALIVE_S,
            auto_decompress=False,  # nobody packs a request to us, but to make us unpack it
        )
        await runner.setup()
        self._runners.append(runner)
        return runner


async def _site(
    runner: web.AppRunner, listen: Listen, tls: ssl.SSLContext | None, setting: str
) -> asyncio.Server:
    channel = socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        channel.bind((listen.host, listen.port))
        return await asyncio.get_running_loop().create_server(
            runner.server,  # type: ignore[arg-type]
            sock=channel,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_S,
        )
    except OSError as e:
        channel.close()
        raise Unavailable(
            f"{setting}: cannot listen on {listen}: {e.strerror}",
            hint="stop what holds the port, or choose another",
        ) from e


def bind(path: Path) -> socket.socket:
    """Return a Unix socket bound to the path, for its owner alone.

    The path may be longer than the 107 bytes of sun_path: it is reached through its open directory.

    Raises:
        Unavailable: somebody listens there already.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    short = f"/proc/self/fd/{directory}/{path.name}"
    channel = socket.socket(socket.AF_UNIX)
    try:
        _refuse_taken(short, path)
        path.unlink(missing_ok=True)  # what a killed one left behind
        mask = os.umask(0o177)
        try:
            channel.bind(short)
        finally:
            os.umask(mask)
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(directory)
    return channel


def _refuse_taken(short: str, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(short)
        except OSError:
            return
    raise Unavailable(
        f"{path}: another certvoy listens there", hint="give each its own state_dir, or stop the other"
    )
