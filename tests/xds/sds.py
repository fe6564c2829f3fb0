"""A server on a real port with its PKI, for tests of the transport and of real Envoys."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from random import Random

import grpc

from sds_server.clock import SystemClock
from sds_server.config.values import Listen
from sds_server.credentials import Files, HttpsTls, server_credentials
from sds_server.identity import Grant, Grants, Trust
from sds_server.xds import codec
from sds_server.xds.caller import Door
from sds_server.xds.catalog import Catalog, Resource
from sds_server.xds.fetch import Fetcher
from sds_server.xds.limits import Limits
from sds_server.xds.rest import RestServer
from sds_server.xds.server import MAX_AGE, SdsServer, TokenListener
from sds_server.xds.service import Service
from sds_server.xds.stream import REFRESH_S
from tests.support.pki import authority

EDGE = "spiffe://td.test/edge"
TIMEOUT_S = 60.0


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

    def accepted(self, peer, name, version, generation, *, nonce=None):
        self.nonce = nonce
        self._tell("accepted", peer.node_id, name, generation)

    def unstapled(self, peer, name, version):
        self._tell("unstapled", peer.node_id, name, version)

    def refused(self, peer, name, version, generation, detail, *, nonce=None):
        self.detail = detail
        self._tell("refused", peer.node_id, name, generation)

    def denied(self, peer, name, why):
        self.why = why
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

    def __init__(self, directory, *, names=("a", "b"), clock=None, tokens=False):
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
        self.tokens = tokens
        self.bearers = {}
        self.token_port = 0
        self.limits = self.names = None
        self.require_node = True
        self.ignored = []
        self.sockets = ()
        self.max_age = MAX_AGE
        self.refresh_s = REFRESH_S
        self.port = self.rest_port = 0
        self.server = self.rest = None

    async def start(self):
        """Start on the port of last time."""
        service = Service(
            catalog=self.catalog,
            authorize=self.authorize,
            observer=self.witness,
            refused=self.witness,
            identifier="replica-1",
            clock=self.clock,
            rng=Random(),
            limits=self.limits or Limits(self.clock),
            max_names=self.max_names,
            refresh_s=self.refresh_s,
            require_node=self.require_node,
            on_ignored=self.ignored.append,
            names=self.names,
        )
        fetcher = Fetcher(service)
        door = Door(self.identify, self.admits, self.denies, self.bearers.get)
        files = Files(**self.files)
        server = SdsServer(
            fetcher=fetcher,
            door=door,
            credentials=server_credentials(files),
            tokens=TokenListener("127.0.0.1", self.token_port, server_credentials(files, mutual=False))
            if self.tokens
            else None,
            host="127.0.0.1",
            port=self.port,
            sockets=self.sockets,
        )
        self.port = await server.start()
        self.token_port = server.token_port or 0
        self.server = server
        rest = RestServer(
            fetcher=fetcher,
            door=door,
            tls=HttpsTls(files, mutual=not self.tokens, oldest=ssl.TLSVersion.TLSv1_3).context,
            tokens=self.tokens,
            listen=Listen("127.0.0.1", self.rest_port),
            max_age=self.max_age,
        )
        self.rest_port = await rest.start()
        self.rest = rest

    def authorize(self, identity, name):
        """Ask the grants of now."""
        return self.grants.authorize(identity, name, self.catalog.kind(name))

    def max_names(self, identity):
        """Ask the grants of now."""
        return self.grants.max_names(identity)

    def identify(self, certificate_pem):
        """Ask the trust of now."""
        return self.trust.holder(certificate_pem)

    def denies(self, identity):
        """Ask the trust of now."""
        return self.trust.denies(identity)

    def admits(self, holder):
        """Ask the trust of now."""
        return self.trust.admits(holder)

    async def stop(self, grace_s=0.0):
        if self.rest is not None:
            await self.rest.stop()
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
