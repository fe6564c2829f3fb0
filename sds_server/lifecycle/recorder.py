"""The recorder: what the streams tell, merged in memory and written to the inventory in batches.

It never makes a stream wait. While the database is down the newest state of each (peer, name) is kept, which
is bounded by what is subscribed, and written when it is back. What several streams of a peer say of a name
is rolled up: see `lifecycle.instances`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.inventory import deliveries, refusals
from sds_server.inventory.audit import Deed, Deeds
from sds_server.inventory.database import Database
from sds_server.inventory.deliveries import News
from sds_server.lifecycle import instances
from sds_server.lifecycle.instances import Instance, Living
from sds_server.log import get
from sds_server.model import Identity
from sds_server.xds.caller import Denied
from sds_server.xds.catalog import Resource
from sds_server.xds.service import PeerNode

BATCH: Final = 500
MAX_DENIED: Final = 1000
"""Identities whose denials are kept while the database is down: a few each, and how many there were."""

REFRESHES: Final = 3
"""How often a living subscription is written within ``seen_for``, so that one lost write does not end it."""

SWEEP: Final = timedelta(hours=1)
"""How often refusals of content that is gone are forgotten."""

Key = tuple[PeerNode, str]

_log = get("recorder")


@dataclass(frozen=True, slots=True)
class _Note:
    """What is not yet written of one (peer, name)."""

    wanted: bool = True
    streamed: bool = False
    sent: int | None = None
    accepted: int | None = None
    refused: int | None = None
    refusal: str | None = None
    refused_version: str | None = None
    refused_before: tuple[str, ...] = ()
    accepted_nonce: str | None = None
    refused_nonce: str | None = None


class Recorder:
    """The SDS server's Observer and its memory of refused content."""

    def __init__(
        self,
        *,
        database: Database,
        authorize: Callable[[Identity, str], bool],
        seen_for: timedelta,
        clock: Clock,
        actor: str,
        replica: str,
        on_written: Callable[[str], None],
    ) -> None:
        """``replica``: the token of this process's life, under which its streams count for Targets."""
        self._database = database
        self._authorize = authorize
        self._seen_for = seen_for
        self._clock = clock
        self._actor = actor
        self._replica = replica
        self.on_news: Callable[[], None] = lambda: None
        self._on_written = on_written
        self._notes: dict[Key, _Note] = {}
        self._denials: dict[Identity, Deeds] = {}
        self._capped: set[Identity] = set()
        self._writing = asyncio.Lock()
        """The last step of a process comes while its loop may be at one: together they write all twice."""
        self._streams: dict[Key, Living] = {}
        self._fetches: dict[Key, int] = {}
        self._peers: dict[str, set[PeerNode]] = {}
        """Who has a stream or a fetch for a name."""

        self._refused: dict[PeerNode, set[tuple[str, str]]] = {}
        self._refreshed_at = self._swept_at = clock.monotonic()

    async def load(self) -> None:
        """Read what was refused, by whomever of us it was heard, and go on with that alone."""
        found: dict[PeerNode, set[tuple[str, str]]] = {}
        for identity, node_id, secret, version in await refusals.newest(self._database):
            found.setdefault(PeerNode(identity, node_id), set()).add((secret, version))
        for (peer, name), note in self._notes.items():
            for unwritten in (*note.refused_before, note.refused_version):
                if unwritten is not None:
                    found.setdefault(peer, set()).add((name, unwritten))
        self._refused = found

    # The Observer: quick, never blocks, never raises

    def subscribed(self, peer: PeerNode, name: str) -> None:
        """The peer wants the name; a name that it may not see makes it no Target."""
        if self._authorize(peer.identity, name):
            if peer.stream is None:
                self._fetches[peer, name] = self._fetches.get((peer, name), 0) + 1
                self._peers.setdefault(name, set()).add(peer)
            else:
                self._came(peer, peer.stream, name)
            self._note(peer, name)

    def unsubscribed(self, peer: PeerNode, name: str) -> None:
        """The peer does not want the name any more."""
        if self._left(peer, name):
            self._note(peer, name, wanted=False)

    def disconnected(self, peer: PeerNode, name: str) -> None:
        """Its stream ended: it serves on with what it has, and counts for ``seen_for``.

        Unless it may not see the name, which may have shown only when it was known what the name is.
        """
        if self._left(peer, name):
            self._note(peer, name, wanted=self._authorize(peer.identity, name))

    def sent(self, peer: PeerNode, resource: Resource) -> None:
        """The Resource was written to the peer's stream: so it may see it, whatever was so when it came."""
        if peer.stream is not None:
            self._came(peer, peer.stream, resource.name)
        self._note(peer, resource.name, sent=resource.generation)

    def accepted(
        self,
        peer: PeerNode,
        name: str,
        version: str,  # noqa: ARG002
        generation: int,
        *,
        nonce: str | None = None,
    ) -> None:
        """A stream of the peer said yes: the peer has, once each of its streams has.

        One that is half open, as its proxy came back on another, hinders until keepalive or its unanswered
        response ends it.
        """
        if self._heard(peer, name, Instance.accept, generation) == generation:
            self._agreed(peer, name, generation, nonce)
        else:
            self._note(peer, name)

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
        """The peer said no; the content is never sent to it again."""
        self._refused.setdefault(peer, set()).add((name, version))
        self._heard(peer, name, Instance.refuse, generation)
        last = self._notes.get((peer, name), _Note())
        before = (
            last.refused_before
            if last.refused_version is None
            else (*last.refused_before, last.refused_version)
        )
        self._note(
            peer,
            name,
            accepted=None if last.accepted == generation else last.accepted,
            refused=generation,
            refusal=detail,
            refused_version=version,
            refused_before=before,
            refused_nonce=nonce,
        )

    def unstapled(self, peer: PeerNode, name: str, version: str) -> None:
        """The peer said no to content with a staple: it is never sent that again, and said nothing else."""
        self._refused.setdefault(peer, set()).add((name, version))
        before = self._notes.get((peer, name), _Note()).refused_before
        self._note(peer, name, refused_before=(*before, version))

    def denied(self, peer: PeerNode, name: str, why: Denied) -> None:
        """The peer wants a name that it may not see: no roll-out waits for it any more."""
        if peer.stream is not None and self._left(peer, name):
            self._note(peer, name, wanted=False)
        known = self._denials.get(peer.identity)
        if known is not None or len(self._denials) < MAX_DENIED:
            detail = {"identity": peer.identity, "node_id": peer.node_id, "why": why}
            self._denials[peer.identity] = (known or Deeds()).and_one(Deed(name, detail))
            self.on_news()

    def of(self, peer: PeerNode) -> frozenset[tuple[str, str]]:
        """Return (name, version) of each content that this peer refused."""
        return frozenset(self._refused.get(peer, ()))

    @property
    def unwritten(self) -> int:
        """How many are not written yet."""
        return len(self._notes) + len(self._denials)

    # The writer

    async def step(self) -> None:
        """Write all that is new.

        Raises:
            Unavailable: the database does not answer; nothing is lost.
        """
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        self._refresh()
        while self._denials:
            denials = dict(list(self._denials.items())[:BATCH])
            await deliveries.deny(self._database, denials, actor=self._actor)
            for identity, deeds in denials.items():
                if (left := self._denials.pop(identity).without(deeds)) is not None:
                    self._denials[identity] = left
        while self._notes:
            batch = {key: (note, self._news(key, note)) for key, note in list(self._notes.items())[:BATCH]}
            crashpoint("deliveries.writing")
            written = await deliveries.write(
                self._database, [news for _, news in batch.values()], actor=self._actor
            )
            for identity in written.capped - self._capped:
                _log.error("targets.capped", identity=identity)
            self._capped |= written.capped
            crashpoint("deliveries.written")
            for key, (note, news) in batch.items():
                # The same note may tell of another stream by now.
                if self._notes.get(key) == note and self._news(key, note) == news:
                    del self._notes[key]
                if note.accepted is not None or note.refused is not None or key[1] in written.rolled_up:
                    self._on_written(key[1])
        await self._sweep()

    async def _sweep(self) -> None:
        now = self._clock.monotonic()
        if now - self._swept_at >= SWEEP.total_seconds():
            await refusals.sweep(self._database)
            await self.load()
            self._swept_at = now
            self._capped.clear()  # told of again, if it is so still

    def refresh(self) -> None:
        """Write every living subscription again: others may have taken this replica for dead."""
        self._refreshed_at = self._clock.monotonic()
        for key in (*self._streams, *self._fetches):
            self._notes.setdefault(key, _Note())
        self.on_news()

    def declared(self, name: str) -> None:
        """There is a Secret of that name now: who has wanted it all along counts from the start."""
        for peer in self._peers.get(name, ()):
            self._notes.setdefault((peer, name), _Note())
        self.on_news()

    def _refresh(self) -> None:
        """Let living subscriptions count for another ``seen_for``."""
        if self._clock.monotonic() - self._refreshed_at >= self._seen_for.total_seconds() / REFRESHES:
            self.refresh()

    def _news(self, key: Key, note: _Note) -> News:
        peer, name = key
        return News(
            identity=peer.identity,
            node_id=peer.node_id,
            secret=name,
            sent=note.sent,
            accepted=note.accepted,
            refused=note.refused,
            refusal=note.refusal,
            refused_version=note.refused_version,
            seen_for=self._seen_for if note.wanted else None,
            refused_before=note.refused_before,
            accepted_nonce=note.accepted_nonce,
            refused_nonce=note.refused_nonce,
            kind=peer.kind,
            mine=self._mine(key) if note.streamed or key in self._streams else None,
        )

    def _mine(self, key: Key) -> Instance:
        """All of its streams here, as they are now; none is left: also told."""
        return self._streams.get(key, Living()).together(self._replica)

    def _note(
        self, peer: PeerNode, name: str, *, wanted: bool = True, **news: int | str | tuple[str, ...] | None
    ) -> None:
        before = self._notes.get((peer, name), _Note())
        streamed = before.streamed or peer.stream is not None
        self._notes[peer, name] = replace(before, wanted=wanted, streamed=streamed, **news)  # type: ignore[arg-type]
        self.on_news()

    def _agreed(self, peer: PeerNode, name: str, generation: int, nonce: str | None = None) -> None:
        """All streams have accepted it. The same as other bytes may be taken after all: no refusal stays."""
        refused = self._notes.get((peer, name), _Note()).refused
        still = None if refused == generation else refused
        self._note(peer, name, accepted=generation, refused=still, accepted_nonce=nonce)

    # The streams

    def _came(self, peer: PeerNode, stream: str, name: str) -> None:
        live = self._streams.setdefault((peer, name), Living())
        self._peers.setdefault(name, set()).add(peer)
        if live.find(stream) is None:
            live.put(Instance(stream))

    def _heard(
        self, peer: PeerNode, name: str, said: Callable[[Instance, int], Instance], generation: int
    ) -> int | None:
        """Let the stream have said it; return what all of them have accepted now."""
        live = self._streams.get((peer, name))
        if live is None:
            return generation
        one = None if peer.stream is None else live.find(peer.stream)
        if one is not None:
            live.put(said(one, generation))
        return live.together(self._replica).accepted

    def _left(self, peer: PeerNode, name: str) -> bool:
        """Count one stream less, and let the others speak without it; True when it was the last one."""
        if peer.stream is None:
            fetches = self._fetches.pop((peer, name), 0) - 1
            if fetches > 0:
                self._fetches[peer, name] = fetches
            self._forget(peer, name)
            return fetches == 0
        live = self._streams.get((peer, name))
        if live is None:
            return False
        before = live.together(self._replica)
        live.remove(peer.stream)
        if not live:
            del self._streams[peer, name]
            self._forget(peer, name)
            return True
        freed = instances.freed(before, live.together(self._replica))
        if freed is None:
            self._note(peer, name)
        else:
            self._agreed(peer, name, freed)
        return False

    def _forget(self, peer: PeerNode, name: str) -> None:
        """Note that the peer has nothing open for the name any more, if that is so."""
        if (peer, name) in self._streams or (peer, name) in self._fetches:
            return
        peers = self._peers.get(name, set())
        peers.discard(peer)
        if not peers:
            self._peers.pop(name, None)
