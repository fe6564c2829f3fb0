"""What a control plane listens with: SDS over gRPC, sockets and REST, and the API."""

import ssl
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from acme_engine.http01 import Http01Responder
from acme_engine.solver import TokenReader
from acme_engine.tls_alpn01 import TlsAlpn01Responder
from sds_server.admin.callers import Callers
from sds_server.admin.server import AdminServer
from sds_server.admin.services import Check, Health, Services
from sds_server.admin.table import ROUTES
from sds_server.config.certvoy_yaml import Config
from sds_server.config.values import Listen
from sds_server.credentials import Files, HttpsTls, server_credentials
from sds_server.instruments import watch_responders
from sds_server.inventory import api_tokens
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.loop import Loop
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.seal import Seal
from sds_server.lifecycle.skew import HINT, Skew
from sds_server.metrics import Metrics
from sds_server.xds.caller import Door
from sds_server.xds.fetch import Fetcher
from sds_server.xds.rest import RestServer
from sds_server.xds.server import MAX_AGE, SdsServer, TokenListener
from sds_server.xds.service import Service
from sds_server.xds.sockets import SdsSocket


def admin_socket(config: Config) -> Path:
    """Where the machine's own users reach the admin API."""
    return config.state_dir / "admin.sock"


def transports(config: Config, service: Service, admission: Admission) -> tuple[SdsServer, RestServer | None]:
    """Build what proxies connect to: gRPC over TCP and sockets, and REST where it is wanted."""
    files = Files(config.sds.certificate, config.sds.key, config.sds.client_ca)
    door = Door(admission.holder, admission.admits, admission.denies, admission.bearer)
    fetcher = Fetcher(service)
    # A third of a credential's life is left when it is renewed: by then its connection is another.
    max_age = min(MAX_AGE, config.enrolment.lifetime / 4)
    sds = SdsServer(
        fetcher=fetcher,
        door=door,
        credentials=server_credentials(files, lambda: admission.issued),
        host=config.sds.listen.host,
        port=config.sds.listen.port,
        sockets=[SdsSocket(one.path, one.identity) for one in config.sds.sockets],
        tokens=None
        if (at := config.sds.tokens) is None
        else TokenListener(
            at.host, at.port, server_credentials(files, lambda: admission.issued, mutual=False)
        ),
        max_age=max_age,
    )
    if config.sds.rest is None:
        return sds, None
    tokens = config.sds.tokens is not None
    tls = HttpsTls(files, lambda: admission.issued, mutual=not tokens, oldest=ssl.TLSVersion.TLSv1_3)
    rest = RestServer(
        fetcher=fetcher,
        door=door,
        tls=tls.context,
        listen=config.sds.rest,
        max_age=max_age,
        tokens=tokens,
    )
    return sds, rest


def http01_responder(listen: Listen | None, tokens: TokenReader) -> Http01Responder | None:
    """Build what answers HTTP-01; None: another process does."""
    return None if listen is None else Http01Responder(tokens, host=listen.host, port=listen.port)


def tls_responder(listen: Listen | None, tokens: TokenReader) -> TlsAlpn01Responder | None:
    """Build what answers TLS-ALPN-01; None: nothing is to, or another process does."""
    return None if listen is None else TlsAlpn01Responder(tokens, host=listen.host, port=listen.port)


def responders(
    config: Config, tokens: TokenReader, *, to: Metrics
) -> tuple[Http01Responder | None, TlsAlpn01Responder | None]:
    """Build what answers challenges, and have who asks counted."""
    by_http = http01_responder(config.http01.listen, tokens)
    by_tls = tls_responder(None if config.tls_alpn01 is None else config.tls_alpn01.listen, tokens)
    watch_responders(by_http, by_tls, to=to)
    return by_http, by_tls


def https(config: Config, admission: Admission) -> HttpsTls | None:
    """Build the TLS of the API's port; None: it listens on none."""
    if config.admin.listen is None:
        return None
    files = Files(
        config.admin.certificate or config.sds.certificate,
        config.admin.key or config.sds.key,
        config.sds.client_ca,
        section="admin",
    )
    return HttpsTls(files, lambda: admission.issued)


def api(config: Config, services: Services, admission: Admission, tls: HttpsTls | None) -> AdminServer:
    """Build the API's server."""
    callers = Callers(
        token=partial(api_tokens.find, services.database),
        identify=admission.holder,
        clock=services.clock,
        clients={client.identity: frozenset(client.scopes) for client in config.admin.clients},
    )
    return AdminServer(
        ROUTES,
        services,
        callers,
        socket_path=admin_socket(config),
        listen=config.admin.listen,
        tls=None if tls is None else tls.context,
        probes=config.metrics.listen,
    )


def checks(loops: Iterable[Loop], patience: Patience, skew: Skew, seal: Seal) -> list[Check]:
    """Say how each loop is, which CA is left alone, and whether our clock is that of CAs.

    None of that ends serving, as it is from memory; a seal does.
    """
    sealed = [Check("seal", Health.FAILED, f"sealed: {seal.state.reason}")] if seal.state else []
    parts = [
        Check(loop.name, Health.OK)
        if not loop.failures
        else Check(loop.name, Health.DEGRADED, f"failed {loop.failures} times: {loop.error}")
        for loop in loops
    ]
    cas = [
        Check(f"issuer {name}", Health.DEGRADED, f"since {pause.since:%FT%TZ}: {pause.error['what']}")
        for name, pause in patience.paused.items()
    ]
    clock = [Check("clock", Health.DEGRADED, f"{said}; {HINT}") for said in skew.complaints()]
    return sealed + parts + cas + clock
