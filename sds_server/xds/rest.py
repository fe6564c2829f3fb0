"""The REST form of SDS: ``POST /v3/discovery:secrets`` over mutual TLS 1.3.

For Envoys whose `api_type` is REST: they ask every so often, and say neither yes nor no.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp import hdrs, web

from sds_server.config.values import Listen
from sds_server.errors import Unavailable
from sds_server.xds import codec
from sds_server.xds.caller import Caller, Door, Ended, Status
from sds_server.xds.fetch import Fetcher

PATH: Final = "/v3/discovery:secrets"

ANSWER_S: Final = 0.8  # Envoy's default request_timeout is 1 s
BODY_S: Final = 5.0
BODY_BYTES_MAX: Final = 1024 * 1024  # Envoy's is 77 kB
KEEPALIVE_S: Final = 75.0
HANDSHAKE_S: Final = 10.0  # asyncio would wait for 60 s
BACKLOG: Final = 1024

STATUSES: Final = {
    Status.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Status.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Status.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
}
"""Any other is 503: ask again."""


class RestServer:
    """Answers polls until stopped."""

    def __init__(
        self,
        *,
        fetcher: Fetcher,
        door: Door,
        tls: ssl.SSLContext,
        listen: Listen,
        max_age: timedelta,
        tokens: bool = False,
    ) -> None:
        """``max_age``: of a connection; the next one shows who the peer is anew.

        ``tokens``: who shows no certificate may show a token, if ``tls`` lets them come so far.
        """
        self._tokens = tokens
        self._fetcher = fetcher
        self._door = door
        self._tls = tls
        self._listen = listen
        self._max_age_s = max_age.total_seconds()
        self._since: WeakKeyDictionary[asyncio.BaseTransport, float] = WeakKeyDictionary()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            Unavailable: the address is taken or not ours.
        """
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._fresh])
        app.router.add_post(PATH, self._answer)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=ANSWER_S,
            keepalive_timeout=KEEPALIVE_S,
            auto_decompress=False,  # nobody packs a request to us, but to make us unpack it
        )
        await runner.setup()
        channel = socket.socket(socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            channel.bind((self._listen.host, self._listen.port))
            self._server = await asyncio.get_running_loop().create_server(
                runner.server,  # type: ignore[arg-type]
                sock=channel,
                ssl=self._tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except OSError as e:
            channel.close()
            await runner.cleanup()
            raise Unavailable(
                f"sds.rest: cannot listen on {self._listen}: {e.strerror}",
                hint="stop what holds the port, or choose another",
            ) from e
        self._runner = runner
        return int(channel.getsockname()[1])

    async def stop(self) -> None:
        """Let what is under way end, and close."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            caller = self._caller(request)
            poll = codec.decode_json(await _body(request))
            found = await self._fetcher.fetch(
                caller, poll.node_id, poll.names, type_url=poll.type_url, known=poll.known, within_s=ANSWER_S
            )
        except codec.Malformed as e:
            return web.Response(status=HTTPStatus.BAD_REQUEST, text=str(e))
        except Ended as end:
            response = web.Response(
                status=STATUSES.get(end.status, HTTPStatus.SERVICE_UNAVAILABLE), text=end.details
            )
            if end.status is Status.UNAUTHENTICATED:
                response.force_close()  # the next connection may show another certificate
            return response
        if not found.resources:
            # Never a body without resources. What the peer may not see looks like what is not there.
            return web.Response(status=HTTPStatus.NOT_FOUND, text="none of these names for this client")
        if found.version == poll.known:
            return web.Response(status=HTTPStatus.NOT_MODIFIED)
        body = codec.encode_json(found.resources, found.version, identifier=self._fetcher.service.identifier)
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    def _caller(self, request: web.Request) -> Caller:
        channel = None if request.transport is None else request.transport.get_extra_info("ssl_object")
        certificate = None if channel is None else channel.getpeercert(binary_form=True)
        if certificate is None and self._tokens:
            shown = request.headers.getall(hdrs.AUTHORIZATION, ())
            one = shown[0] if len(shown) == 1 else None
            return self._door.by_token(one, self._fetcher.service.clock.now())
        if certificate is None:
            raise self._door.without_certificate()
        return self._door.by_certificate(ssl.DER_cert_to_PEM_cert(certificate).encode())

    @web.middleware
    async def _fresh(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Close a connection that has become old, with its answer."""
        response = await handler(request)
        now = self._fetcher.service.clock.monotonic()
        if request.transport is not None:
            since = self._since.setdefault(request.transport, now)
            if now - since >= self._max_age_s:
                response.force_close()
        return response


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise Ended(Status.INVALID_ARGUMENT, f"the body did not come within {BODY_S:g} s") from None
