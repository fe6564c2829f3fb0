"""The transport: gRPC around `Session`, for SDS and, with secrets only, ADS. Mutual TLS 1.3, or nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from functools import partial
from secrets import SystemRandom
from typing import Final

import grpc
from cryptography import x509

from sds_server.clock import Clock
from sds_server.errors import CallerError, Unavailable
from sds_server.identity import Holder
from sds_server.log import get
from sds_server.model import Identity
from sds_server.xds.catalog import Catalog
from sds_server.xds.session import Ended, Observer, RefusedContent, Service, Session, Status

SDS: Final = "envoy.service.secret.v3.SecretDiscoveryService"
ADS: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA: Final = {  # method -> variant; the unary Fetch is left UNIMPLEMENTED
    SDS: {"StreamSecrets": False, "DeltaSecrets": True},
    ADS: {"StreamAggregatedResources": False, "DeltaAggregatedResources": True},
}

MAX_AGE: Final = timedelta(minutes=45)
"""Of a connection: spreads clients over replicas and authenticates them anew; gRPC adds a jitter of 10 %."""

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024  # Envoy's first request is 61 kB

OPTIONS: Final = (
    # With gRPC's defaults an Envoy that pings every second is dropped twice in twelve.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # With the default of 1,000 a reconnect storm of 3,000 streams loses some.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
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
_log = get("sds")


class SdsServer:
    """Serves the Catalog's entries to the peers that may see them, over mutual TLS only."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        authorize: Callable[[Identity, str], bool],
        identify: Callable[[bytes], Holder],
        admits: Callable[[Holder], bool],
        observer: Observer,
        refused: RefusedContent,
        credentials: grpc.ServerCredentials,
        host: str,
        port: int,
        identifier: str,
        clock: Clock,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        """``identify`` says whose certificate (PEM) it is; ``admits`` whether that is still believed."""
        self._rng = SystemRandom()
        self._service = Service(catalog, authorize, observer, refused, identifier, clock, self._rng)
        self._identify = identify
        self._admits = admits
        self._credentials = credentials
        self._max_age = max_age
        self._host = host
        self._port = port
        self._sessions: set[Session] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            Unavailable: the address is taken or not ours.
        """
        max_age_ms = round(self._max_age / timedelta(milliseconds=1))
        server = grpc.aio.server(options=(*OPTIONS, ("grpc.max_connection_age_ms", max_age_ms)))
        server.add_generic_rpc_handlers((self._handlers(SDS), self._handlers(ADS)))
        host = f"[{self._host}]" if ":" in self._host else self._host
        address = f"{host}:{self._port}"
        try:
            port = server.add_secure_port(address, self._credentials)
        except RuntimeError:
            # No cause: its frames would keep the server, whose end needs the loop, until the loop is gone.
            del server
            raise Unavailable(
                f"sds: cannot listen on {address}", hint="stop what holds the port, or choose another"
            ) from None
        await server.start()
        self._server, self._port = server, port
        return port

    @property
    def port(self) -> int:
        """Where it listens; 0: not yet, and wherever the system says."""
        return self._port

    async def stop(self, grace_s: float) -> None:
        """Take no new stream; end the open ones spread over half of the grace, so that no herd returns."""
        if self._server is None:
            return
        loop = asyncio.get_running_loop()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        for session in self._sessions:
            loop.call_later(self._rng.uniform(0, grace_s / 2), session.stop)
        await stopping
        self._server = None  # and with it the circle through our handlers: its end needs the loop

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._sessions)

    def recheck(self) -> None:
        """Look at every name of every stream again: what peers may see has changed."""
        for session in self._sessions:
            session.recheck()

    async def _serve(
        self, requests: AsyncIterator[bytes], call: _Call, *, delta: bool, aggregated: bool
    ) -> None:
        """Handle one stream from its opening to its end."""
        try:
            holder, expires = self._authenticated(call)
            session = Session(
                self._service,
                call.write,
                identity=holder.identity,
                expires=expires,
                admitted=partial(self._admits, holder),
                delta=delta,
                aggregated=aggregated,
            )
            self._sessions.add(session)
            try:
                await session.run(requests)
            finally:
                self._sessions.discard(session)
                session.close()
        except Ended as end:
            await call.abort(grpc.StatusCode[end.status], end.details)

    def _handlers(self, service: str) -> grpc.GenericRpcHandler:
        """Return the methods of a service, bytes in and bytes out."""
        return grpc.method_handlers_generic_handler(
            service,
            {
                method: grpc.stream_stream_rpc_method_handler(
                    partial(self._serve, delta=delta, aggregated=service == ADS)
                )
                for method, delta in DELTA[service].items()
            },
        )

    def _authenticated(self, call: _Call) -> tuple[Holder, datetime]:
        """Return who the peer is and until when its certificate says so.

        gRPC has no option for the lowest TLS version, so it is looked at here, before anything is said.
        """
        properties: dict[str, list[bytes]] = call.auth_context()  # type: ignore[assignment]
        tls_version = b"".join(properties.get("ssl_tls_version", ()))
        pem = b"".join(properties.get("x509_pem_cert", ()))
        if tls_version != b"TLSv1.3" or not pem:
            raise Ended(Status.UNAUTHENTICATED, "a client certificate over TLS 1.3 is required")
        try:
            return self._identify(pem), x509.load_pem_x509_certificate(pem).not_valid_after_utc
        except (CallerError, ValueError) as e:
            _log.warning("client.refused", reason=str(e))
            raise Ended(Status.UNAUTHENTICATED, str(e)) from None
