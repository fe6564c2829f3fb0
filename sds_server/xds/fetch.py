"""One question, one answer: what a peer may see of some names now. The unary and the REST form stand on it.

The doors are those of a stream: the right to each name is asked at each look, before the Catalog; what the
peer refused on a stream is not given to it here either; and the Observer is told. Nobody says yes or no to
such an answer, so what went out is "sent", and nothing but a look at what the peer serves proves it.

Knows neither gRPC nor HTTP.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sds_server.log import get
from sds_server.xds import codec
from sds_server.xds.caller import Caller, Denied, Ended, Status
from sds_server.xds.catalog import ABSENT, Resource
from sds_server.xds.service import PeerNode, Service, node_of
from sds_server.xds.stream import MAX_NAMES, is_name

LOAD_S: Final = 5.0
"""A name that nobody has asked for is read from the database and opened by the KMS first."""

MAX_TOLD: Final = 10_000  # denials remembered, so that who polls is not told of each time

_log = get("fetch")


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of the names that were asked for; ``version`` is that of all of it together."""

    resources: tuple[Resource, ...]
    version: str


class Fetcher:
    """Answers from the Catalog, and waits for what is not loaded yet."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._told: dict[tuple[PeerNode, str], None] = {}

    async def fetch(
        self,
        caller: Caller,
        node_id: str,
        names: Iterable[str],
        *,
        type_url: str,
        within_s: float,
        known: str | None = None,
    ) -> Found:
        """Return what there is of the names. ``known``: the version that the peer has, not sent again.

        Raises:
            Ended: it may not be here, asks for what is none or too much, or something is not loaded in time.
        """
        service = self.service
        service.check_open()
        caller.left_s(service.clock.now())
        name = node_of(node_id, caller.identity, required=service.require_node)
        if type_url not in {"", codec.TYPE_URL}:
            raise Ended(Status.INVALID_ARGUMENT, f"type_url must be {codec.TYPE_URL}")
        peer = PeerNode(caller.identity, name)
        asked = [name for name in dict.fromkeys(names) if is_name(name)][:MAX_NAMES]
        with service.limits.stream(caller.identity):
            try:
                for name in asked:
                    service.observer.subscribed(peer, name)
                with self._room(peer, [name for name in asked if self._may(peer, name)]) as held:
                    await self._load(peer, held, within_s)
                    caller.left_s(service.clock.now())  # it may have been removed meanwhile
                    found = self._found(peer, held)
                if found.version != known:
                    for resource in found.resources:
                        service.observer.sent(peer, resource)
                return found
            finally:
                for name in asked:
                    service.observer.disconnected(peer, name)

    def recheck(self) -> None:
        """Tell of each denial again: what peers may see has changed."""
        self._told.clear()

    async def _load(self, peer: PeerNode, names: Sequence[str], within_s: float) -> None:
        """Wait until something is known of each name.

        Raises:
            Ended: it is not in time; nothing is said rather than half.
        """
        catalog, clock, limits = self.service.catalog, self.service.clock, self.service.limits
        unloaded = [name for name in names if catalog.look(name, peer.peer) is None]
        if not all(limits.may_look_up(peer.identity) for _ in unloaded):
            raise Ended(Status.RESOURCE_EXHAUSTED, "too many names that do not exist: ask more slowly")
        changed = asyncio.Event()

        def wake(_name: str) -> None:
            changed.set()

        # What is loaded already is watched too: it stays loaded as long as somebody fetches it.
        catalog.watch(names, wake)
        pause = asyncio.create_task(clock.sleep(within_s))
        try:
            while any(catalog.look(name, peer.peer) is None for name in names):
                changed.clear()
                change = asyncio.create_task(changed.wait())
                try:
                    await asyncio.wait({pause, change}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                if pause.done() and not changed.is_set():
                    raise Ended(Status.UNAVAILABLE, f"not loaded within {within_s:g} s: ask again")
        finally:
            pause.cancel()
            catalog.unwatch(names, wake, now=clock.monotonic())
        for name in unloaded:
            if catalog.look(name, peer.peer) not in {ABSENT, None}:
                limits.exists(peer.identity)

    def _found(self, peer: PeerNode, names: Iterable[str]) -> Found:
        refused = self.service.refused.of(peer)
        resources = []
        for name in names:
            if not self._may(peer, name):
                continue
            entry = self.service.catalog.look(name, peer.peer)
            if isinstance(entry, Resource) and (name, entry.version) in refused and entry.instead is not None:
                entry = entry.instead
            if isinstance(entry, Resource) and (name, entry.version) in refused:
                entry = self.service.catalog.before(name)
            if isinstance(entry, Resource) and entry.is_for_envoy and (name, entry.version) not in refused:
                resources.append(entry)
        return Found(tuple(resources), codec.version_of_all(resources))

    def _may(self, peer: PeerNode, name: str) -> bool:
        """Ask the one decision about grants, and tell once of a no."""
        if self.service.authorize(peer.identity, name):
            self._told.pop((peer, name), None)
            return True
        self._tell(peer, name, Denied.UNGRANTED)
        return False

    @contextmanager
    def _room(self, peer: PeerNode, names: Iterable[str]) -> Iterator[list[str]]:
        """Count the names that the identity wants for the length of the block; those that are too many go."""
        most, limits = self.service.max_names(peer.identity), self.service.limits
        if most is None:
            yield list(names)
            return
        held: list[str] = []
        try:
            for name in names:
                if limits.take_name(peer.identity, name, most):
                    held.append(name)
                else:
                    self._tell(peer, name, Denied.CROWDED)
            yield held
        finally:
            for name in held:
                limits.drop_name(peer.identity, name)

    def _tell(self, peer: PeerNode, name: str, why: Denied) -> None:
        if (peer, name) in self._told:
            return
        self._told[peer, name] = None
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
        if self.service.limits.may_tell(peer.identity):
            _log.warning("secret.denied", secret=name, identity=peer.identity, node=peer.node_id, reason=why)
        self.service.observer.denied(peer, name, why)
