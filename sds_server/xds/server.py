"""The transport: gRPC around `Session` and `Fetcher`, for SDS and, with secrets only, ADS.

Mutual TLS 1.3 over TCP, or, on a port of its own, TLS 1.3 and a token with each call; over a Unix socket
nothing, as that is one identity's alone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, Never

import grpc

from sds_server.errors import Unavailable
from sds_server.xds import codec
from sds_server.xds.caller import Caller, Door, Ended, Status
from sds_server.xds.fetch import LOAD_S, Fetcher
from sds_server.xds.session import Session
from sds_server.xds.sockets import SdsSocket, place_for

SDS: Final = "envoy.service.secret.v3.SecretDiscoveryService"
ADS: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
FETCH: Final = "FetchSecrets"
DELTA: Final = {  # streaming method -> variant
    SDS: {"StreamSecrets": False, "DeltaSecrets": True},
    ADS: {"StreamAggregatedResources": False, "DeltaAggregatedResources": True},
}

MAX_AGE: Final = timedelta(minutes=45)
"""Of a connection: spreads clients over replicas and authenticates them anew; gRPC adds a jitter of 10 %."""

FETCH_MARGIN_S: Final = 0.1  # of a caller's deadline, for the answer's way back

MAX_REQUEST_BYTES: Final = (
    2 * 1024 * 1024
)  # Envoy's first request is 61 kB; 10,000 names of 100 bytes are 1 MB

OPTIONS: Final = (
    # With gRPC's defaults an Envoy that pings every second is dropped twice in twelve.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # With the default of 1,000 a reconnect storm of 3,000 streams loses some.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # And with that of 30 s, those that a busy machine comes to later: they come again, behind all others.
    ("grpc.server_max_unrequested_time_in_server", 300),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Envoy keeps its connection when it renews its certificate, and opens its streams on it again when the
    # old one has expired. We refuse them, and a connection without a stream is closed: the next one shows the
    # new certificate. Each try begins the time anew, so it is below what the pauses between two tries reach
    # (1 s in our bootstraps); and above what a client's first stream takes in a storm: of 3,000 connections
    # at once 91 were closed with 50 ms.
    ("grpc.max_connection_idle_ms", 500),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", 256),
    # With gRPC's default two servers could share a port unnoticed.
    ("grpc.so_reuseport", 0),
)

_Call = grpc.aio.ServicerContext[bytes, bytes]
_Who = Callable[[_Call], Caller]


@dataclass(frozen=True, slots=True)
class TokenListener:
    """Where clients come that show a token and no certificate, which these credentials do not ask for."""

    host: str
    port: int
    credentials: grpc.ServerCredentials


class SdsServer:
    """Serves the Catalog's entries to the peers that may see them."""

    def __init__(
        self,
        *,
        fetcher: Fetcher,
        door: Door,
        credentials: grpc.ServerCredentials,
        host: str,
        port: int,
        sockets: Sequence[SdsSocket] = (),
        tokens: TokenListener | None = None,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        self._fetcher = fetcher
        self._service = fetcher.service
        self._door = door
        self._credentials = credentials
        self._max_age = max_age
        self._host = host
        self._port = port
        self._sockets = sockets
        self._tokens = tokens
        self.token_port: int | None = None
        self._bound: list[SdsSocket] = []  # by us: what somebody else listens on stays
        self._sessions: set[Session] = set()
        self._servers: list[grpc.aio.Server] = []

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            Unavailable: an address is taken or not ours.
            OperatorError: a socket cannot be where it should.
        """
        try:
            for sds_socket in self._sockets:
                await self._listen_on(sds_socket)
            if self._tokens is not None:
                at, credentials = self._tokens, self._tokens.credentials
                self.token_port = await self._listen(at.host, at.port, credentials, self._by_token)
            self._port = await self._listen(self._host, self._port, self._credentials, self._by_certificate)
        except BaseException:
            await self.stop(0)
            raise
        return self._port

    @property
    def port(self) -> int:
        """Where it listens; 0: not yet, and wherever the system says."""
        return self._port

    async def stop(self, grace_s: float) -> None:
        """Take no new stream; end the open ones spread over half of the grace, so that no herd returns."""
        if not self._servers:
            return
        loop = asyncio.get_running_loop()
        stopping = [asyncio.create_task(server.stop(grace_s)) for server in self._servers]
        for session in self._sessions:
            loop.call_later(self._service.rng.uniform(0, grace_s / 2), session.stop)
        await asyncio.gather(*stopping)
        self._servers.clear()  # and with them the circle through our handlers: their end needs the loop
        for sds_socket in self._bound:
            sds_socket.path.unlink(missing_ok=True)
        self._bound.clear()

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._sessions)

    def recheck(self) -> None:
        """Look at every name of every stream again: what peers may see has changed."""
        self._fetcher.recheck()
        for session in self._sessions:
            session.recheck()

    async def _listen(self, host: str, port: int, credentials: grpc.ServerCredentials, who: _Who) -> int:
        server = self._server(who)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError:
            # No cause: its frames would keep the server, whose end needs the loop, until the loop is gone.
            del server
            raise Unavailable(
                f"sds: cannot listen on {address}", hint="stop what holds the port, or choose another"
            ) from None
        await server.start()
        self._servers.append(server)
        return port

    async def _listen_on(self, sds_socket: SdsSocket) -> None:
        """Listen with a server of its own: that is how a call says which socket it came by."""
        server = self._server(lambda _call: self._door.by_socket(sds_socket.identity))
        local = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
        try:
            with place_for(sds_socket):
                server.add_secure_port(sds_socket.address, local)
        except RuntimeError:
            del server
            raise Unavailable(
                f"sds.sockets: cannot listen on {sds_socket.path}",
                hint="let certvoy's user own the directory, and give it mode 0750",
            ) from None
        self._bound.append(sds_socket)
        await server.start()
        self._servers.append(server)

    def _server(self, who: _Who) -> grpc.aio.Server:
        max_age_ms = round(self._max_age / timedelta(milliseconds=1))
        server = grpc.aio.server(options=(*OPTIONS, ("grpc.max_connection_age_ms", max_age_ms)))
        server.add_generic_rpc_handlers((self._handlers(SDS, who), self._handlers(ADS, who)))
        return server

    async def _serve(
        self, requests: AsyncIterator[bytes], call: _Call, *, who: _Who, delta: bool, aggregated: bool
    ) -> None:
        """Handle one stream from its opening to its end."""
        try:
            caller = who(call)
            with self._service.limits.stream(caller.identity):
                session = Session(
                    self._service, call.write, caller=caller, delta=delta, aggregated=aggregated
                )
                self._sessions.add(session)
                try:
                    await session.run(requests)
                finally:
                    self._sessions.discard(session)
                    session.close()
        except Ended as end:
            await _end(call, end)

    async def _fetch(self, data: bytes, call: _Call, *, who: _Who) -> bytes:
        """Answer one fetch."""
        left_s = call.time_remaining()
        within_s = LOAD_S if left_s is None else max(0.0, min(LOAD_S, left_s - FETCH_MARGIN_S))
        try:
            caller = who(call)
            message = codec.decode(data, delta=False)
            found = await self._fetcher.fetch(
                caller,
                message.node_id,
                message.request.names or (),
                type_url=message.type_url,
                within_s=within_s,
            )
        except codec.Malformed as e:
            await _end(call, Ended(Status.INVALID_ARGUMENT, str(e)))
        except Ended as end:
            await _end(call, end)
        return codec.encode_all(found.resources, found.version, identifier=self._service.identifier)

    def _handlers(self, service: str, who: _Who) -> grpc.GenericRpcHandler:
        """Return the methods of a service, bytes in and bytes out."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.stream_stream_rpc_method_handler(
                partial(self._serve, who=who, delta=delta, aggregated=service == ADS)
            )
            for method, delta in DELTA[service].items()
        }
        if service == SDS:
            methods[FETCH] = grpc.unary_unary_rpc_method_handler(partial(self._fetch, who=who))
        return grpc.method_handlers_generic_handler(service, methods)

    def _by_certificate(self, call: _Call) -> Caller:
        """Return whose certificate the peer has shown.

        gRPC has no option for the lowest TLS version, so it is looked at here, before anything is said.
        """
        pem = _property(call, "x509_pem_cert")
        if _property(call, "ssl_tls_version") != b"TLSv1.3" or not pem:
            raise self._door.without_certificate()
        return self._door.by_certificate(pem)

    def _by_token(self, call: _Call) -> Caller:
        """Return whose token the peer shows, with each call."""
        if _property(call, "ssl_tls_version") != b"TLSv1.3":
            raise self._door.without_token()
        shown = [value for key, value in call.invocation_metadata() or () if key == "authorization"]
        one = str(shown[0]) if len(shown) == 1 else None  # of two, who knows which somebody else has added
        return self._door.by_token(one, self._service.clock.now())


def _property(call: _Call, name: str) -> bytes:
    properties: dict[str, list[bytes]] = call.auth_context()  # type: ignore[assignment]
    return b"".join(properties.get(name, ()))


async def _end(call: _Call, end: Ended) -> Never:
    await call.abort(grpc.StatusCode[end.status], end.details)
    raise AssertionError  # abort has raised
