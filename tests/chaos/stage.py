"""The parts, all ours: PostgreSQL, a CA, two replicas, Envoys, two impostors, and the links between them.

Whatever connects two parts runs through a `FaultProxy`. Everything listens on loopback and dies with us.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import aiohttp

from sds_server.errors import Unavailable
from sds_server.programs import envoy
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.programs.postgres import SOCKET_FILE, EmbeddedPostgres
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.cluster import ControlPlane
from tests.chaos.impostors import AgentImpostor, Impostor, XdsImpostor
from tests.chaos.targets import HOST, Target
from tests.support import control_plane
from tests.support.fault_proxy import Address, FaultProxy

SECRETS = {"www": ("www.chaos.test", "chaos.test"), "api": ("api.chaos.test",)}
ENVOYS = {
    # One for each form in which Envoy asks; the last is a bystander of most faults.
    "envoy-sotw": (Api.SOTW, "www"),
    "envoy-delta": (Api.DELTA, "www"),
    "envoy-ads": (Api.ADS, "www"),
    "envoy-api": (Api.ADS, "api"),
}
XDS, AGENT = "impostor-xds", "impostor-agent"
REPLICAS = ("a", "b")
FLEET = "spiffe://chaos.test/fleet"
START_TRIES = 10
ANSWER_S = 30.0


class Balancer(FaultProxy):
    """Connects each client to the first upstream that takes it: the CA comes to port 80 of any replica."""

    def __init__(self, upstreams: Sequence[Address]) -> None:
        super().__init__(upstreams[0])
        self._upstreams = upstreams

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for upstream in self._upstreams:
            self._upstream = upstream
            with contextlib.suppress(OSError):
                return await super()._connect()
        raise ConnectionRefusedError


class Stage:
    """Starts, kills, freezes and restarts the parts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.postgres = EmbeddedPostgres(directory / "pg", durable=False)
        self.replicas: dict[str, control_plane.ControlPlane] = {}
        self.xds_links: dict[str, FaultProxy] = {}
        self.database_links: dict[str, FaultProxy] = {}
        self.envoys: dict[str, envoy.Envoy] = {}
        self.targets = {
            name: Target(name, secret, SECRETS[secret], free_port())
            for name, secret in [
                *((name, secret) for name, (_, secret) in ENVOYS.items()),
                (XDS, "www"),
                (AGENT, "www"),
            ]
        }
        self.impostors: dict[str, Impostor] = {}
        self._balancer: Balancer | None = None
        self._caddy: Caddy | None = None
        self._admin_ports = {name: free_port() for name in REPLICAS}

    @property
    def root(self) -> Path:
        """The CA's root certificate."""
        assert self._caddy is not None
        return self._caddy.ca_file

    async def start(self) -> None:
        """Start all of it; every target is registered, and nothing is issued to it yet."""
        await self.postgres.start()
        responders = {name: free_port() for name in REPLICAS}
        self._balancer = Balancer([(HOST, port) for port in responders.values()])
        await self._balancer.start()
        address = self._balancer.address
        assert isinstance(address, tuple)
        (self.directory / "caddy").mkdir()
        self._caddy = await Caddy.start(
            self.directory / "caddy", responder=f"{HOST}:{address[1]}", lifetime=timedelta(days=1)
        )
        for name in REPLICAS:
            await self._prepare(name, responders[name])
        await asyncio.gather(*(plane.start() for plane in self.replicas.values()))
        for target in self.targets.values():
            await self.admin(
                "PUT",
                f"/v1/targets/{target.name}",
                {
                    "probe": f"{HOST}:{target.port}",
                    "kind": "files" if target.name == AGENT else "envoy",
                    "identity": FLEET if target.name in ENVOYS else f"spiffe://chaos.test/{target.name}",
                    "node_id": target.name,
                    "secrets": [target.secret],
                },
            )
        await asyncio.gather(*(self.start_envoy(name) for name in ENVOYS))
        links = [link.address[1] for link in self.xds_links.values() if isinstance(link.address, tuple)]
        clients = self.replicas[REPLICAS[0]].clients
        ports = list(self._admin_ports.values())
        self.impostors = {
            XDS: XdsImpostor(self.targets[XDS], self.directory / XDS, clients, links),
            AGENT: AgentImpostor(self.targets[AGENT], self.directory / AGENT, clients, ports),
        }
        for impostor in self.impostors.values():
            await impostor.start()

    async def stop(self) -> None:
        """Stop all of it."""
        for impostor in self.impostors.values():
            await impostor.stop()
        for running in self.envoys.values():
            running.child.kill()
        await asyncio.gather(*(plane.stop() for plane in self.replicas.values() if plane.child))
        if self._caddy:
            await self._caddy.stop()
        for link in (self._balancer, *self.xds_links.values(), *self.database_links.values()):
            if link is not None:
                await link.stop()
        self.postgres.kill()

    async def admin(self, method: str, path: str, body: object = None) -> object:
        """Ask the admin API of the first replica that answers, as an operator would.

        Raises:
            OSError: none does.
        """
        why = "no replica runs"
        for plane in self.replicas.values():
            connector = aiohttp.UnixConnector(str(plane.directory / "state" / "admin.sock"))
            timeout = aiohttp.ClientTimeout(total=ANSWER_S)
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
                    http.request(method, f"http://certvoy{path}", json=body) as response,
                ):
                    if response.status < 300:
                        return await response.json()
                    why = f"{response.status}: {(await response.text())[:500]}"
            except (aiohttp.ClientError, TimeoutError) as e:
                why = repr(e)
        raise OSError(f"{method} {path}: {why}")

    async def start_replica(self, name: str) -> None:
        """Start a replica; where the database is away just now, once more."""
        for attempt in range(START_TRIES):
            try:
                return await self.replicas[name].start()
            except Unavailable:
                if attempt == START_TRIES - 1:
                    raise
                await asyncio.sleep(1)
        return None

    async def start_database(self) -> None:
        """Start the database on what a crash has left, as soon as its last backend has ended."""
        for attempt in range(START_TRIES):
            try:
                return await self.postgres.start()
            except Unavailable:
                if attempt == START_TRIES - 1:
                    raise
                await asyncio.sleep(1)
        return None

    async def start_envoy(self, name: str) -> None:
        """Start an Envoy that reaches both replicas."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        api, secret = ENVOYS[name]
        clients = self.replicas[REPLICAS[0]].clients
        certificate, key = clients.issue(uris=[FLEET]).write(directory, "client")
        links = [link.address[1] for link in self.xds_links.values() if isinstance(link.address, tuple)]
        text = bootstrap(
            node_id=name,
            cluster="chaos",
            api=api,
            control_plane=ControlPlane(
                host=HOST,
                port=links[0],
                server_name=control_plane.SERVER_NAME,
                ca=clients.write(directory / "servers.pem"),
                certificate=certificate,
                private_key=key,
            ),
            listeners=[TlsListener("https", secret, port=self.targets[name].port)],
        )
        configuration = json.loads(text)
        (cluster,) = configuration["static_resources"]["clusters"]
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        first = json.dumps(endpoints["lb_endpoints"][0])
        endpoints["lb_endpoints"] = [json.loads(first.replace(str(links[0]), str(port))) for port in links]
        self.envoys[name] = await envoy.start(json.dumps(configuration), directory)

    async def _prepare(self, name: str, responder: int) -> None:
        directory = self.directory / name
        directory.mkdir()
        real = self.postgres.connect
        link = FaultProxy(Path(real["host"]) / SOCKET_FILE, listen=directory / SOCKET_FILE)
        await link.start()
        self.database_links[name] = link
        database = control_plane.dsn(real | {"host": str(directory)})
        plane = control_plane.ControlPlane(directory, database=database, http01_port=responder)
        assert self._caddy is not None
        plane.issuer(self._caddy.directory_url, self._caddy.ca_file, roots_file=str(self._caddy.ca_file))
        first = self.replicas.setdefault(name, plane) if not self.replicas else self.replicas[REPLICAS[0]]
        self.replicas[name] = plane
        plane.settings |= {
            "replica": name,
            "kms": {"key_file": str(self.directory / "kek")},
            "sds": first.settings["sds"] | {"listen": plane.settings["sds"]["listen"]},
            "admin": {"listen": f"{HOST}:{self._admin_ports[name]}"},
            # Every target is registered: nothing completes before it is there to be looked at.
            "rotation": plane.settings["rotation"] | {"settle": "1h"},
            "secrets": {
                secret: {"domains": list(domains), "issuer": "internal"}
                for secret, domains in SECRETS.items()
            },
            "grants": [
                {"identity": FLEET, "names": list(SECRETS)},
                *(
                    {"identity": f"spiffe://chaos.test/{impostor}", "names": ["www"]}
                    for impostor in (XDS, AGENT)
                ),
            ],
        }
        xds = FaultProxy((HOST, plane.sds_port))
        await xds.start()
        self.xds_links[name] = xds
