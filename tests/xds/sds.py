"""A server on a real port with its PKI, for tests of the transport and of real Envoys."""

import asyncio
from contextlib import asynccontextmanager

import grpc

from sds_server.clock import SystemClock
from sds_server.credentials import Files, server_credentials
from sds_server.identity import Grant, Grants, Trust
from sds_server.xds import codec
from sds_server.xds.catalog import Catalog, Resource
from sds_server.xds.server import SdsServer
from tests.support.pki import authority

EDGE = "spiffe://td.test/edge"
TIMEOUT_S = 20.0


class Witness:
    """An Observer and RefusedContent that remembers everything; `until` waits for a fact."""

    def __init__(self):
        self.facts = []
        self.refused_before = frozenset()
        self._news = asyncio.Event()

    def _tell(self, *fact):
        self.facts.append(fact)
        self._news.set()

    def subscribed(self, peer, name):
        self._tell("subscribed", peer.node_id, name)

    def unsubscribed(self, peer, name):
        self._tell("unsubscribed", peer.node_id, name)

    def disconnected(self, peer, name):
        self._tell("disconnected", peer.node_id, name)

    def sent(self, peer, resource):
        self._tell("sent", peer.node_id, resource.name, resource.generation)

    def accepted(self, peer, name, version, generation):
        self._tell("accepted", peer.node_id, name, generation)

    def refused(self, peer, name, version, generation, detail):
        self.detail = detail
        self._tell("refused", peer.node_id, name, generation)

    def denied(self, peer, name):
        self._tell("denied", peer.node_id, name)

    def of(self, peer):
        return self.refused_before

    async def until(self, *fact, times=1):
        async with asyncio.timeout(TIMEOUT_S):
            while self.facts.count(fact) < times:
                self._news.clear()
                await self._news.wait()


class Deployment:
    """The server, and everything that it and its clients are made of."""

    def __init__(self, directory, *, names=("a", "b"), clock=None):
        self.directory = directory
        self.servers_ca, self.clients_ca = authority("Servers"), authority("Clients")
        certificate, key = self.servers_ca.issue(dns=["localhost"]).write(directory, "server")
        self.files = {
            "certificate": certificate,
            "private_key": key,
            "client_ca": self.clients_ca.write(directory / "clients.pem"),
        }
        self.grants = Grants([Grant(EDGE, tuple(names))])
        self.trust = Trust("certvoy")
        self.catalog = Catalog()
        self.witness = Witness()
        self.clock = clock or SystemClock()
        self.port = 0
        self.server = None

    async def start(self):
        """Start on the port of last time."""
        server = SdsServer(
            catalog=self.catalog,
            authorize=self.authorize,
            identify=self.identify,
            admits=self.admits,
            observer=self.witness,
            refused=self.witness,
            credentials=server_credentials(Files(**self.files)),
            host="127.0.0.1",
            port=self.port,
            identifier="replica-1",
            clock=self.clock,
        )
        self.port = await server.start()
        self.server = server

    def authorize(self, identity, name):
        """Ask the grants of now."""
        return self.grants.authorize(identity, name)

    def identify(self, certificate_pem):
        """Ask the trust of now."""
        return self.trust.holder(certificate_pem)

    def admits(self, holder):
        """Ask the trust of now."""
        return self.trust.admits(holder)

    async def stop(self, grace_s=0.0):
        if self.server is not None:
            await self.server.stop(grace_s)

    def publish(self, name, generation, pair, *, key_of=None):
        """Publish a pair; ``key_of`` another one makes a mismatch."""
        body = codec.tls_certificate(name, pair.chain_pem, (key_of or pair).key_pem)
        self.catalog.publish({name: Resource(name, codec.version(b"key", body), generation, body)})

    def channel(self, client=None, *, certificate=True):
        """Connect with a client's pair: by default one of the edge's."""
        pair = client or self.clients_ca.issue(uris=[EDGE])
        credentials = grpc.ssl_channel_credentials(
            self.servers_ca.pem,
            private_key=pair.key_pem if certificate else None,
            certificate_chain=pair.chain_pem if certificate else None,
        )
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials)


@asynccontextmanager
async def deployed(directory, **options):
    """Run a `Deployment` for the block."""
    deployment = Deployment(directory, **options)
    try:
        await deployment.start()
        yield deployment
    finally:
        await deployment.stop()
