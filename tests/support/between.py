"""What stands between an agent and a program that it tells over a socket: it refuses, or lies, when told to.

The programs themselves cannot be made to refuse what their own check has passed, or to say yes and do
nothing. ``refuses`` and ``is_deaf`` say which of it is so now.
"""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sds_server.programs.child import free_port

HOST = "127.0.0.1"
Said = Callable[[], bool]


class RuntimeApi:
    """HAProxy's stats socket."""

    def __init__(self, path: Path, real: Path, *, refuses: Said, is_deaf: Said, words: str) -> None:
        self.path, self._real = path, real
        self._refuses, self._is_deaf, self._words = refuses, is_deaf, words
        self._lied: str | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = await reader.readline()
            if b"<<" in command:
                command += await reader.readuntil(b"\n\n")
            writer.write((await self._answer(command.decode())).encode())
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def _answer(self, command: str) -> str:
        if command.startswith("commit ssl cert"):
            if self._refuses():
                return f"{self._words}\n\n"
            if self._is_deaf():
                return "Success!\n\n"
        if command.startswith("set ssl cert") and self._is_deaf():
            leaf = x509.load_pem_x509_certificate(command.partition("\n")[2].encode())
            self._lied = leaf.fingerprint(hashes.SHA1()).hex().upper()
        reader, writer = await asyncio.open_unix_connection(self._real)
        writer.write(command.encode())
        said = (await reader.read()).decode()
        writer.close()
        if command.startswith("show ssl cert") and self._is_deaf() and self._lied is not None:
            said = re.sub("SHA1 FingerPrint: .*", f"SHA1 FingerPrint: {self._lied}", said)
        return said


class Http:
    """An API over HTTP. ``instead`` answers a request in its place; None: the program shall."""

    def __init__(
        self, real: str, instead: Callable[[web.Request], web.Response | None], *, unix: Path | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._real, self._unix, self._instead = real, unix, instead
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.Response:
        if (answer := self._instead(request)) is not None:
            return answer
        connector = None if self._unix is None else aiohttp.UnixConnector(str(self._unix))
        kept = {"Content-Type", "Cache-Control", "If-Match"}
        headers = {name: value for name, value in request.headers.items() if name in kept}
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False) as session,
            session.request(
                request.method, self._real + request.path, headers=headers, data=await request.read()
            ) as said,
        ):
            etag = {"Etag": said.headers["Etag"]} if "Etag" in said.headers else {}
            return web.Response(status=said.status, body=await said.read(), headers=etag)


class Copies:
    """A file that is copied to where the program reads it, whenever it has changed and ``stops`` says no."""

    def __init__(self, path: Path, real: Path, *, stops: Said) -> None:
        self.path, self._real, self._stops = path, real, stops
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._copy()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            self._copy()
            await asyncio.sleep(0.01)

    def _copy(self) -> None:
        if self._stops() or not self.path.exists():
            return
        content = self.path.read_bytes()
        if not self._real.exists() or content != self._real.read_bytes():
            partial = self._real.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(self._real)
