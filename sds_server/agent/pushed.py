"""The agent's own endpoint, where an operator wants bundles pushed: the control plane calls, and nobody else.

What comes in goes the way of what is fetched, under the same lock: gate, place, check, load, look. The answer
is the report that a fetch would be followed by. The listener shows the agent's credential, read again for
each connection, and takes a client certificate of the control plane's own CA that names the control plane
itself: no proxy's credential does, and no other root that the agent trusts can make one.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from cryptography import x509

from sds_server import authority
from sds_server.agent.door import Report
from sds_server.agent.files import CredentialFiles, Held
from sds_server.agent.installers.installer import Rejected
from sds_server.agent.pair import Bundle
from sds_server.clock import Clock
from sds_server.config.values import Listen
from sds_server.errors import CallerError, CertvoyError, Forbidden, NotFound, Unavailable
from sds_server.identity import identify
from sds_server.log import get
from sds_server.model import Identity

BODY_MAX: Final = 1024 * 1024
"""A bundle is at most some tens of kilobytes."""

BUSY_S: Final = 20.0
"""How long a push waits for a delivery that is under way, before it is told to come again."""

HANDSHAKE_S: Final = 5.0
IDLE_S: Final = 10.0  # after the handshake: a push is one request, made at once
"""Whoever connects and says nothing holds a file descriptor for as long, and the agent has few."""

RETRY_AFTER_S: Final = 30
SHUTDOWN_S: Final = 5.0

Json = Mapping[str, Any]

_log = get("agent")


@dataclass(frozen=True, slots=True)
class Pushable:
    """One bundle of the configuration, as the endpoint reaches it.

    ``deliver`` brings a bundle into the program; it is repeatable, and what is served already is looked at
    with a fresh handshake. ``check`` lets the program judge its files as they lie. Both have their turn with
    what is fetched; ``lock`` keeps one push from waiting behind many others.
    """

    secret: str
    target: str | None
    deliver: Callable[[Bundle], Awaitable[Report]]
    check: Callable[[], Awaitable[None]]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Endpoint:
    """Listens until stopped."""

    def __init__(
        self, bundles: Sequence[Pushable], files: CredentialFiles, *, listen: Listen, clock: Clock
    ) -> None:
        self._bundles = bundles
        self._files = files
        self._listen = listen
        self._clock = clock
        self._shown: tuple[object, ssl.SSLContext] | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            Unavailable: the address is taken, or there is no credential to show yet.
        """
        app = web.Application(client_max_size=BODY_MAX, middlewares=[self._guarded])
        app.router.add_route("POST", "/v1/bundles/{secret}", self._take)
        app.router.add_route("POST", "/v1/checks/{secret}", self._check)
        context = self._context()
        # Another context for each connection: the credential is renewed while this listens.
        context.sni_callback = self._renewed
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=IDLE_S,
            auto_decompress=False,
        )
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._runner.server,  # type: ignore[arg-type]
                self._listen.host,
                self._listen.port,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except OSError as e:
            await self._runner.cleanup()
            raise Unavailable(
                f"listen: cannot listen on {self._listen}: {e.strerror}",
                hint="stop what holds the port, or choose another",
            ) from e
        port = int(self._server.sockets[0].getsockname()[1])
        _log.info("agent.listening", port=port, bundles=len(self._bundles))
        return port

    async def stop(self) -> None:
        """Let what is under way end, for a while, and close."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # Who calls

    def _context(self) -> ssl.SSLContext:
        """Return TLS with the credential that is held now."""
        held = self._held()
        version = held.directory.resolve()
        if self._shown is None or self._shown[0] != version:
            certificate, key, authorities = held.paths
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authorities)
            self._shown = version, context
        return self._shown[1]

    def _renewed(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        try:
            connection.context = self._context()
        except (CertvoyError, OSError) as e:  # what was read last stays in force
            _log.warning("credentials.kept", reason=str(e))

    def _held(self) -> Held:
        held = self._files.held()
        if held is None:
            raise Unavailable(
                "there is no credential to show yet", hint="the agent enrols first: see its log"
            )
        return held

    def _caller(self, request: web.Request) -> Identity:
        """Return who calls, if that is the control plane.

        Raises:
            Forbidden: it is somebody else.
        """
        channel = None if request.transport is None else request.transport.get_extra_info("ssl_object")
        shown = None if channel is None else channel.getpeercert(binary_form=True)
        if shown is None:
            raise Forbidden("a client certificate is required", hint="only the control plane calls here")
        certificate = x509.load_der_x509_certificate(shown)
        try:
            caller = identify(ssl.DER_cert_to_PEM_cert(shown).encode())
        except CallerError as e:
            raise Forbidden(e.message, hint="only the control plane calls here") from None
        held = self._held()
        own = identify(held.paths[0].read_bytes())
        trust_domain = own.removeprefix("spiffe://").partition("/")[0]
        roots = authority.ours(x509.load_pem_x509_certificates(held.paths[2].read_bytes()), trust_domain)
        if caller != authority.control_plane_identity(trust_domain) or not authority.issued_by(
            certificate, roots
        ):
            raise Forbidden(
                f"{caller} is not the control plane of {own}", hint="only the control plane calls here"
            )
        if certificate.not_valid_after_utc <= self._clock.now():
            raise Forbidden("the control plane's certificate has ended", hint="connect anew")
        return caller

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._caller(request)
            return await handler(request)
        except Forbidden as e:
            _log.warning("push.forbidden", reason=str(e), remote=request.remote)
            return _problem(HTTPStatus.FORBIDDEN, e)
        except NotFound as e:
            return _problem(HTTPStatus.NOT_FOUND, e)
        except CallerError as e:
            return _problem(HTTPStatus.BAD_REQUEST, e)
        except CertvoyError as e:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, e, {"Retry-After": str(RETRY_AFTER_S)})

    # What is asked

    async def _take(self, request: web.Request) -> web.Response:
        body = await _json(request)
        wanted = self._wanted(request, body)
        bundle = Bundle.of(body, etag=f'"{body.get("version")}.json"')
        if bundle.secret != wanted.secret:
            raise CallerError(f"the bundle is of {bundle.secret}, not of {wanted.secret}")
        async with _turn(wanted):
            report = await wanted.deliver(bundle)
        return web.json_response(report.body)

    async def _check(self, request: web.Request) -> web.Response:
        wanted = self._wanted(request, await _json(request))
        async with _turn(wanted):
            try:
                await wanted.check()
            except Rejected as e:
                return web.json_response({"ok": False, "detail": str(e)})
        return web.json_response({"ok": True, "detail": ""})

    def _wanted(self, request: web.Request, body: Json) -> Pushable:
        """Return the bundle that is meant: of that secret, and of that target where there are several."""
        secret, target = request.match_info["secret"], body.get("target")
        found = [bundle for bundle in self._bundles if bundle.secret == secret]
        named = [bundle for bundle in found if bundle.target == target]
        if len(named) == 1 or len(found) == 1:
            return (named or found)[0]
        what = "no bundle" if not found else f"no bundle for target {target}"
        raise NotFound(f"secret {secret}: this agent has {what}", hint="add it to `bundles:` of agent.yaml")


@asynccontextmanager
async def _turn(bundle: Pushable) -> AsyncIterator[None]:
    """Hold a bundle's lock, if it is free soon enough."""
    try:
        async with asyncio.timeout(BUSY_S):
            await bundle.lock.acquire()
    except TimeoutError:
        raise Unavailable(
            f"secret {bundle.secret}: a delivery is under way", hint="it is pushed again"
        ) from None
    try:
        yield
    finally:
        bundle.lock.release()


async def _json(request: web.Request) -> Json:
    try:
        body = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise CallerError("the body is no JSON object", hint="only the control plane calls here")
    return body


def _problem(
    status: HTTPStatus, error: CertvoyError, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.json_response(
        {"title": status.phrase, "status": status, "detail": error.message, "hint": error.next_step},
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )
