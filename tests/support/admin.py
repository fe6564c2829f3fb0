"""The admin API of a test: its real listeners on a real database, and clients of each kind."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from sds_server.admin.callers import Callers
from sds_server.admin.server import AdminServer, Ports
from sds_server.admin.services import Check, Services
from sds_server.admin.table import ROUTES
from sds_server.clock import Clock, SystemClock
from sds_server.config.values import Listen
from sds_server.credentials import Files, HttpsTls
from sds_server.identity import Grant
from sds_server.inventory import api_tokens, deployment
from sds_server.inventory.database import Database
from sds_server.inventory.feed import Feed
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.calling import CallerCredential
from sds_server.lifecycle.enroller import Enroller
from sds_server.lifecycle.issuer_desk import IssuerDesk
from sds_server.lifecycle.key_checks import KeyChecks
from sds_server.lifecycle.mass_revoker import MassRevoker
from sds_server.lifecycle.payloads import Payloads
from sds_server.lifecycle.preflights import Preflights
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.rewrapper import Rewrapper
from sds_server.lifecycle.seal import Seal
from sds_server.lifecycle.uploads import Uploads
from sds_server.metrics import Metrics
from sds_server.model import Identity, Scope
from sds_server.targets.calls import Agents, Shown
from sds_server.xds.caller import Denied
from sds_server.xds.catalog import Catalog, Resource
from sds_server.xds.service import PeerNode
from tests.support.issuances import Issuances
from tests.support.pki import Authority, Pair, authority

HOST = "127.0.0.1"
TRUST_DOMAIN = "certvoy"
SDS_PORT = 8234


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
    admission: Admission
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

    def denied(self, peer: PeerNode, name: str, why: Denied) -> None:
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
    own_ca: bool = False,
    allowed: Sequence[str] = (),
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[Api]:
    """Serve the API for the length of the block; ``more`` are further fields of `Services`."""
    server_ca, client_ca = authority("servers"), authority("clients")
    certificate, key = server_ca.issue(dns=["localhost"], ips=[HOST]).write(directory, "server")
    server_ca.write(directory / "server-ca.pem")
    client_ca.write(directory / "client-ca.pem")
    checks: list[Check] = []
    enroller = await _enroller(database, directory, clock or SystemClock())
    admission = Admission(
        database=database,
        enroller=enroller,
        configured=grants,
        trust_domain=TRUST_DOMAIN,
        clock=SystemClock(),
        server_names=["localhost", HOST] if own_ca else (),
        own_ca=own_ca,
    )
    await admission.step()
    files = Files(section="admin") if own_ca else Files(certificate, key, directory / "client-ca.pem")
    tls = HttpsTls(files, lambda: admission.issued)
    feed = asyncio.create_task(_follow(admission, database))
    server = AdminServer(
        ROUTES,
        Services(
            database=database,
            declared=frozenset(declared),
            rules=frozenset({"shops"}),
            issuers={name: f"https://{name}.example.test/directory" for name in issuers},
            checks=lambda: checks,
            metrics=Metrics(version="0").exposition,
            authorize=admission.authorize,
            granted=admission.granted,
            enroller=enroller,
            agents=agents_of(enroller, admission, allowed=allowed),
            reserved=f"spiffe://{TRUST_DOMAIN}/",
            admits=admission.admits,
            sds_port=lambda: SDS_PORT,
            uploads=await _uploads(database, directory),
            payloads=await _payloads(database, directory),
            rewrapper=await _rewrapper(database, directory),
            key_checks=await _key_checks(database, directory),
            seal=await _seal(database, directory),
            mass_revoker=MassRevoker(database=database, issuers=_cas(issuers)),
            **{
                "desk": await _desk(database, directory, issuers),
                "clock": clock or SystemClock(),
                "catalog": Catalog(),
                "observer": Witness(),
                "preflights": Preflights(database=database, issuers={}),
                "on_said": lambda _name: None,
                "on_rolled_back": lambda _reason: None,
                "seen_for": timedelta(minutes=10),
            }
            | more,
        ),
        Callers(
            token=partial(api_tokens.find, database),
            identify=admission.holder,
            clients=clients or {},
            clock=clock or SystemClock(),
        ),
        socket_path=directory / "admin.sock",
        listen=Listen(HOST, 0),
        tls=tls.context,
        probes=Listen(HOST, 0),
    )
    ports = await server.start()
    try:
        yield Api(database, directory, ports, client_ca, admission, checks)
    finally:
        await server.stop()
        feed.cancel()


def agents_of(
    enroller: Enroller, admission: Admission, *, allowed: Sequence[str] = (), **more: Any
) -> Agents:
    """Calls of agents, at these ranges besides public addresses."""

    def identify(certificate_pem: bytes) -> Shown:
        holder = admission.holder(certificate_pem)
        return Shown(holder.identity, enrolled=holder.enrolment is not None)

    clock = SystemClock()
    return Agents(
        allowed=[ip_network(text) for text in allowed],
        context=CallerCredential(enroller, clock).context,
        identify=identify,
        clock=clock,
        **more,
    )


async def _enroller(database: Database, directory: Path, clock: Clock) -> Enroller:
    deployed, _ = await deployment.identify(database)
    return Enroller(
        database=database,
        sealer=Sealer(LocalKms(directory / "kek", create=True), deployment=deployed, clock=clock),
        trust_domain=TRUST_DOMAIN,
        lifetime=timedelta(hours=24),
        clock=clock,
        actor="replica:test",
    )


async def _follow(admission: Admission, database: Database) -> None:
    """Read the rights again whenever they are told of, as a replica does."""
    told = asyncio.Event()
    feed = Feed(
        database,
        clock=SystemClock(),
        on_secret=lambda _name: None,
        on_work=lambda: None,
        on_gap=told.set,
        on_rights=told.set,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(feed.step())
        while True:
            await told.wait()
            told.clear()
            await admission.step()


async def _uploads(database: Database, directory: Path) -> Uploads:
    issuances = await Issuances.open(database, directory)
    return Uploads(database=database, sealer=issuances.sealer, clock=SystemClock(), replica="test")


def _cas(issuers: Sequence[str]) -> Mapping[str, Issuer]:
    return {
        name: Issuer(
            name=name,
            directory_url="https://127.0.0.1:1/directory",  # where nobody is
            ca_file=None,
            roots=(),
            contact=(),
            terms_agreed=True,
            eab=None,
        )
        for name in issuers
    }


async def _desk(database: Database, directory: Path, issuers: Sequence[str]) -> IssuerDesk:
    identity, _ = await deployment.identify(database)
    sealer = Sealer(LocalKms(directory / "kek", create=True), deployment=identity, clock=SystemClock())
    accounts = Accounts(database=database, sealer=sealer, actor="replica:test")
    return IssuerDesk(database=database, accounts=accounts, issuers=_cas(issuers))


async def _payloads(database: Database, directory: Path) -> Payloads:
    issuances = await Issuances.open(database, directory)
    return Payloads(database=database, sealer=issuances.sealer, clock=SystemClock(), actor="replica:test")


async def _key_checks(database: Database, directory: Path) -> KeyChecks:
    issuances = await Issuances.open(database, directory)
    return KeyChecks(database=database, sealer=issuances.sealer)


async def _rewrapper(database: Database, directory: Path) -> Rewrapper:
    issuances = await Issuances.open(database, directory)
    return Rewrapper(database=database, sealer=issuances.sealer)


async def _seal(database: Database, directory: Path) -> Seal:
    issuances = await Issuances.open(database, directory)
    catalog, clock = Catalog(), SystemClock()
    publisher = Publisher(
        database=database,
        sealer=issuances.sealer,
        catalog=catalog,
        version_key=b"test",
        clock=clock,
        actor="replica:test",
    )
    return Seal(
        path=directory / "sealed",
        replica="test",
        database=database,
        sealer=issuances.sealer,
        catalog=catalog,
        publisher=publisher,
        accounts=Accounts(database=database, sealer=issuances.sealer, actor="replica:test"),
        clock=clock,
    )


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
