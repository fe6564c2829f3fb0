"""What all streams and fetches of a replica share: who asks, who is told, and what decides.

Knows no gRPC, and no stream.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from sds_server.clock import Clock
from sds_server.model import Identity, Peer, TargetKind
from sds_server.on_demand.names import Names
from sds_server.xds.caller import Denied, Ended, Status
from sds_server.xds.catalog import Catalog, Resource
from sds_server.xds.limits import Limits
from sds_server.xds.stream import REFRESH_S

MAX_NODE_ID_BYTES: Final = 512  # it becomes a name in the inventory


@dataclass(frozen=True, slots=True)
class PeerNode:
    """One client: who it is and what it calls itself. Two that call themselves alike are one.

    ``kind``: what kind of program it serves. ``stream``: which of its streams speaks; None: it has none, as
    an agent, which only fetches.
    """

    identity: Identity
    node_id: str
    kind: TargetKind = field(default=TargetKind.ENVOY, compare=False)
    stream: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Call it what the inventory calls it: two that are alike there must not be two here."""
        object.__setattr__(self, "node_id", Peer.of(self.identity, self.node_id).node_id)

    @property
    def peer(self) -> Peer:
        """Who it is to the inventory, and so to whoever decides what it is offered."""
        return Peer(self.identity, self.node_id)


class Observer(Protocol):
    """Told what happens on the streams. Quick, never blocks, never raises."""

    def subscribed(self, peer: PeerNode, name: str) -> None:
        """The peer wants the name now, whether it may see it or not."""

    def unsubscribed(self, peer: PeerNode, name: str) -> None:
        """The peer does not want the name any more."""

    def disconnected(self, peer: PeerNode, name: str) -> None:
        """The stream on which the peer wanted the name has ended: it serves on with what it has."""

    def sent(self, peer: PeerNode, resource: Resource) -> None:
        """The Resource goes out on the peer's stream."""

    def accepted(
        self, peer: PeerNode, name: str, version: str, generation: int, *, nonce: str | None = None
    ) -> None:
        """The peer said yes, to content that it has never refused; ``nonce`` is of what it answered."""

    def refused(
        self,
        peer: PeerNode,
        name: str,
        version: str,
        generation: int,
        detail: str,
        *,
        nonce: str | None = None,
    ) -> None:
        """The peer said no; ``detail`` is scrubbed. To be kept: see `RefusedContent`."""

    def unstapled(self, peer: PeerNode, name: str, version: str) -> None:
        """The peer refused content that it gets without its staple next. To be kept, as any refusal."""

    def denied(self, peer: PeerNode, name: str, why: Denied) -> None:
        """The peer wants a name that it may not see; told once for as long as that is so."""


class RefusedContent(Protocol):
    """What peers refused on earlier streams, restarts of this server included."""

    def of(self, peer: PeerNode) -> frozenset[tuple[str, str]]:
        """Return (name, version) of each content that this peer refused. Quick, from memory."""


@dataclass(frozen=True, slots=True)
class Service:
    """What every stream and fetch of a replica shares.

    ``require_node``: who does not call itself anything is refused. ``on_ignored`` is told of each request for
    another type than Secret; quick, and never raises.
    """

    catalog: Catalog
    authorize: Callable[[Identity, str], bool]
    observer: Observer
    refused: RefusedContent
    identifier: str
    clock: Clock
    rng: Random
    limits: Limits
    max_names: Callable[[Identity], int | None] = lambda _identity: None
    refresh_s: float = REFRESH_S
    require_node: bool = True
    on_ignored: Callable[[str], None] = lambda _type_url: None
    names: Names | None = None
    """What may be asked for on demand, over delta alone: nothing else can say that a name is absent."""

    def check_open(self) -> None:
        """Let nobody wait for what this replica does not give away: another one may.

        Raises:
            Ended: the replica is sealed.
        """
        if self.catalog.closed:
            raise Ended(Status.UNAVAILABLE, "this replica is sealed: ask another one")


def node_of(node_id: str, identity: Identity, *, required: bool) -> str:
    """Return what names the Target: what the client calls itself, or, if it need not, its identity.

    Raises:
        Ended: that cannot name one.
    """
    if not node_id and not required:
        return identity
    if not node_id:
        raise Ended(Status.INVALID_ARGUMENT, "node.id is required in the first request")
    if len(node_id.encode()) > MAX_NODE_ID_BYTES or not node_id.isprintable():
        raise Ended(Status.INVALID_ARGUMENT, f"node.id: at most {MAX_NODE_ID_BYTES} printable bytes")
    return node_id
