"""A replica's parts for payloads, and Envoys that say what they are told to say."""

from datetime import timedelta

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as EnvoySecret

from sds_server.clock import SystemClock
from sds_server.inventory import deliveries, payloads
from sds_server.inventory.deliveries import News
from sds_server.lifecycle.payloads import Payloads
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.settler import Settler
from sds_server.model import Identity, Peer, SecretName
from sds_server.payloads.trust import TrustBundle
from sds_server.xds.catalog import Catalog
from tests.support.clocks import HastyClock
from tests.support.pki import authority

OLD, NEW = authority("Old root"), authority("New root")
NAME = SecretName("clients")
EDGE = Identity("spiffe://example.test/edge")


class Plane:
    """What a replica has for payloads, and Envoys that say what they are told to say."""

    def __init__(self, issuances, *, known=True):
        self.database, self.clock = issuances.database, HastyClock()
        self.sealer, self.catalog = issuances.sealer, Catalog()
        self.service = Payloads(
            database=self.database, sealer=self.sealer, clock=SystemClock(), actor="replica:test"
        )
        self.publisher = Publisher(
            database=self.database,
            sealer=self.sealer,
            catalog=self.catalog,
            version_key=b"k" * 32,
            clock=SystemClock(),
            actor="replica:test",
        )
        self.catalog.on_want = self.publisher.want
        settle = timedelta(0) if known else timedelta(hours=1)
        prover = Prover(database=self.database, settle=settle, clock=self.clock, actor="replica:test")
        self.settler = Settler(database=self.database, prover=prover, clock=self.clock, actor="replica:test")

    async def put(self, *cas, name=NAME):
        return await self.service.put(name, bundle(*cas), actor="person:test")

    async def offered(self, name=NAME):
        if name not in self.catalog.known:
            self.catalog.watch([name], lambda _name: None)
        self.publisher.told(name)
        await self.publisher.step()
        return self.catalog.look(name)

    async def offered_to(self, node, name=NAME):
        await self.offered(name)
        return self.catalog.look(name, Peer(Identity(f"{EDGE}-{node}"), node))

    async def says(self, node, *, accepted=None, refused=None, name=NAME):
        news = News(
            identity=Identity(f"{EDGE}-{node}"),
            node_id=node,
            secret=name,
            sent=accepted or refused,
            accepted=accepted,
            refused=refused,
            refusal=None if refused is None else "it does not like it",
            refused_version=None,
            seen_for=timedelta(minutes=10),
        )
        await deliveries.write(self.database, [news], actor="replica:test")

    async def turned(self, name=NAME):
        """Let the settler look again at once, as it does when a Target has said something."""
        self.settler.said(name)
        await self.settler.step()

    async def outcome(self, name=NAME):
        return [version.outcome for version in await payloads.history(self.database, name)]


def bundle(*cas):
    return TrustBundle.read("".join(ca.pem.decode() for ca in cas))


def sent(resource):
    return EnvoySecret.FromString(resource.body)
