"""The admin API of a test: its real listeners on a real database, and clients of each kind."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from sds_server.admin.callers import Callers
from sds_server.admin.server import AdminServer, Ports
from sds_server.admin.services import Check, Services
from sds_server.admin.table import ROUTES
from sds_server.clock import SystemClock
from sds_server.config_values import Listen
from sds_server.identity import Grant, Grants, https_context, identify
from sds_server.inventory import api_tokens
from sds_server.inventory.database import Database
from sds_server.model import Identity, Scope
from sds_server.xds.catalog import Catalog, Resource
from sds_server.xds.session import PeerNode
from tests.support.pki import Authority, Pair, authority

HOST = "127.0.0.1"


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes
    json: Any


@dataclass
class Api:
    """A running API. ``clients`` is the CA whose client certificates it asks for."""

    database: Database
    directory: Path
    ports: Ports
    clients: Authority
    checks: list[Check] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.directory / "admin.sock"

    async def local(self, method: str, path: str, **more: Any) -> Reply:
        """Ask over the Unix socket, as this machine's user."""
        connector = aiohttp.UnixConnector(str(self.socket))
        return await _ask(connector, "http://certvoy", method, path, **more)

    async def remote(
        self, method: str, path: str, *, token: str | None = None, pair: Pair | None = None, **more: Any
    ) -> Reply:
        """Ask over TLS, with a token, a client certificate, both or neither."""
        context = ssl.create_default_context(cafile=str(self.directory / "server-ca.pem"))
        if pair is not None:
            context.load_cert_chain(*pair.write(self.directory, "client"))
        if token is not None:
            more["headers"] = {"Authorization": f"Bearer {token}", **more.get("headers", {})}
        connector = aiohttp.TCPConnector(ssl=context)
        return await _ask(connector, f"https://{HOST}:{self.ports.api}", method, path, **more)

    async def probe(self, method: str, path: str) -> Reply:
        """Ask the listener of health and metrics."""
        return await _ask(aiohttp.TCPConnector(), f"http://{HOST}:{self.ports.probes}", method, path)

    async def token(self, *scopes: Scope, name: str = "robot") -> str:
        """Make a token and return its text."""
        _, text = await api_tokens.create(self.database, name, scopes=scopes, lasts=None, actor="person:test")
        return text


class Witness:
    """An Observer that keeps what it was told: (event, target, secret) each."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def subscribed(self, peer: PeerNode, name: str) -> None:
        self._keep("subscribed", peer, name)

    def unsubscribed(self, peer: PeerNode, name: str) -> None:
        self._keep("unsubscribed", peer, name)

    def disconnected(self, peer: PeerNode, name: str) -> None:
        self._keep("disconnected", peer, name)

    def sent(self, peer: PeerNode, resource: Resource) -> None:
        self._keep("sent", peer, resource.name)

    def denied(self, peer: PeerNode, name: str) -> None:
        self._keep("denied", peer, name)

    def _keep(self, event: str, peer: PeerNode, name: str) -> None:
        self.told.append((event, peer.node_id, name))


@asynccontextmanager
async def serving(
    database: Database,
    directory: Path,
    *,
    declared: Sequence[str] = (),
    issuers: Sequence[str] = ("internal",),
    clients: Mapping[Identity, frozenset[Scope]] | None = None,
    grants: Sequence[Grant] = (),
    **more: Any,
) -> AsyncIterator[Api]:
    """Serve the API for the length of the block; ``more`` are further fields of `Services`."""
    server_ca, client_ca = authority("servers"), authority("clients")
    certificate, key = server_ca.issue(dns=["localhost"], ips=[HOST]).write(directory, "server")
    server_ca.write(directory / "server-ca.pem")
    client_ca.write(directory / "client-ca.pem")
    checks: list[Check] = []
    server = AdminServer(
        ROUTES,
        Services(
            database=database,
            declared=frozenset(declared),
            issuers={name: f"https://{name}.example.test/directory" for name in issuers},
            checks=lambda: checks,
            authorize=Grants(grants).authorize,
            **{
                "clock": SystemClock(),
                "catalog": Catalog(),
                "observer": Witness(),
                "on_accepted": lambda _name: None,
                "seen_for": timedelta(minutes=10),
            }
            | more,
        ),
        Callers(token=partial(api_tokens.find, database), identify=identify, clients=clients or {}),
        socket_path=directory / "admin.sock",
        listen=Listen(HOST, 0),
        tls=https_context(certificate=certificate, private_key=key, client_ca=directory / "client-ca.pem"),
        probes=Listen(HOST, 0),
    )
    ports = await server.start()
    try:
        yield Api(database, directory, ports, client_ca, checks)
    finally:
        await server.stop()


async def _ask(connector: aiohttp.BaseConnector, base: str, method: str, path: str, **more: Any) -> Reply:
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session,
        session.request(method, URL(base + path, encoded=True), **more) as response,
    ):
        raw = await response.read()
        is_json = response.content_type.endswith("json")
        return Reply(
            response.status,
            response.headers,
            raw,
            await response.json(content_type=None) if is_json and raw else None,
        )
