"""A door before a CA: it can be shut, say that it is too much, answer in its place, change and lose answers.

It knows who came when and for what.
"""

import asyncio
import json
import ssl
import time
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from sds_server.programs.child import free_port
from tests.support import pki

NEW_ORDER = ("/order-plz", "/new-order", "/neworders")
"""Pebble's path of newOrder, Caddy's, acme2certifier's."""

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass(frozen=True)
class Visit:
    """One request: when it came, what for, and for which names where it was a newOrder."""

    at: float
    method: str
    path: str
    names: Sequence[str] = ()
    order: Mapping[str, Any] = field(default_factory=dict)
    """What the newOrder asked for."""
    body: bytes = b""


class CaFront:
    """Passes everything on to the CA at ``upstream`` (its directory's URL), until told otherwise."""

    def __init__(self, directory: Path, *, upstream: str, upstream_ca: Path) -> None:
        self.visits: list[Visit] = []
        self.date: str | None = None
        """The Date of its answers, where that is not the CA's."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = free_port()
        self.directory_url = f"https://localhost:{self.port}/{upstream.rpartition('/')[2]}"
        authority = pki.authority("The door's")
        self.ca_file = authority.write(directory / "front-ca.pem")
        chain, key = authority.issue(["localhost"], ips=["127.0.0.1"]).write(directory, "front")
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(chain, key)
        self._upstream = upstream.rpartition("/")[0]
        self._upstream_tls = ssl.create_default_context(cafile=upstream_ca)
        self._limit: tuple[int, int] | None = None
        self._limited_until = 0.0
        self._answers: list[tuple[str, web.StreamResponse]] = []
        self._changes: dict[str, Callable[[Any], Any]] = {}
        self._bodies: dict[str, bytes] = {}
        self._cuts: list[str] = []
        self._held: tuple[str, asyncio.Event, asyncio.Event] | None = None
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def orders(self) -> list[Visit]:
        """The newOrders, as they came."""
        return [visit for visit in self.visits if visit.names]

    def busiest_second(self) -> int:
        """The most requests in one second."""
        return max(Counter(int(visit.at) for visit in self.visits).values(), default=0)

    def limit(self, seconds: int, *, status: int = 429) -> None:
        """Refuse everything, with Retry-After, from the next request on for so long."""
        self._limit = (seconds, status)
        self._limited_until = 0.0

    def answer(self, path: str, status: int, body: str | bytes = "", **headers: str) -> None:
        """Answer the next request for a path that begins so, and keep it from the CA."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body.encode() if isinstance(body, str) else body
        self._answers.append((path, web.Response(status=status, body=content, headers=named)))

    def cut(self, path: str) -> None:
        """Let the CA act on the next request for a path that begins so, and its answer be lost."""
        self._cuts.append(path)

    def change(self, path: str, change: Callable[[Any], Any]) -> None:
        """Pass each JSON document of a path that begins so through ``change``, from now on."""
        self._changes[path] = change

    def replace(self, path: str, body: bytes) -> None:
        """Put this in place of what the CA says on a path that begins so."""
        self._bodies[path] = body

    def hold(self, path: str | None, held: asyncio.Event | None = None) -> Callable[[], None]:
        """Hold what comes for a path that begins so, and tell of the first; what is returned lets go."""
        go_on = asyncio.Event()
        self._held = None if path is None or held is None else (path, held, go_on)
        return go_on.set

    async def open(self) -> None:
        """Let people in."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._upstream_tls, limit=0))
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()

    async def shut(self) -> None:
        """Nobody listens there any more."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        self._runner = self._session = None

    stop = shut

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        order = _order(request.path, body)
        names = [identifier["value"] for identifier in order.get("identifiers", ())]
        self.visits.append(Visit(time.monotonic(), request.method, request.path, names, order, body))
        for answer in self._answers:
            if request.path.startswith(answer[0]):
                self._answers.remove(answer)
                return answer[1]
        if (refusal := self._refusal()) is not None:
            return refusal
        if self._held is not None and request.path.startswith(self._held[0]):
            _, held, go_on = self._held
            held.set()
            await go_on.wait()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = await self._pass_on(request, body)
        finally:
            self.in_flight -= 1
        for cut in self._cuts:
            if request.path.startswith(cut):
                self._cuts.remove(cut)
                assert request.transport is not None
                request.transport.abort()
                break
        return answer

    def _refusal(self) -> web.Response | None:
        if self._limit is None:
            return None
        seconds, status = self._limit
        now = time.monotonic()
        if not self._limited_until:
            self._limited_until = now + seconds
        if now >= self._limited_until:
            self._limit = None
            return None
        problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too much"}
        return web.Response(
            status=status,
            body=json.dumps(problem).encode(),
            content_type="application/problem+json",
            headers={"Retry-After": str(seconds)},
        )

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        assert self._session is not None
        # The Host is kept: the CA's URLs lead through the door, and each JWS is signed for its URL.
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body or None, headers=headers
        ) as answer:
            content = self._changed(request.path, await answer.read())
            kept = [(n, v) for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP]
            if self.date is not None:
                kept = [(n, v) for n, v in kept if n.lower() != "date"] + [("Date", self.date)]
            return web.Response(status=answer.status, body=content, headers=kept)

    def _changed(self, path: str, content: bytes) -> bytes:
        for begins, body in self._bodies.items():
            if path.startswith(begins):
                return body
        for begins, change in self._changes.items():
            if path.startswith(begins):
                return json.dumps(change(json.loads(content))).encode()
        return content


def _order(path: str, body: bytes) -> Mapping[str, Any]:
    if not path.endswith(NEW_ORDER):
        return {}
    payload = json.loads(body)["payload"]
    document: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return document


async def until_quiet(front: CaFront, *, for_s: float) -> None:
    """Wait until nobody has come for so long."""
    while front.visits and time.monotonic() - front.visits[-1].at < for_s:
        await asyncio.sleep(0.05)
