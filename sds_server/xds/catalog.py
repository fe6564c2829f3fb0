"""What this replica can serve now, and who waits for it.

The view of a name has four values: a Resource; ABSENT (known not to exist: delta says so at once, and Envoy
goes live in 0.4 s instead of waiting 15 s); PENDING (known, nothing issued yet); None (not loaded: the server
stays silent, because an empty answer from a replica that has not read its inventory would take secrets from a
whole fleet).

Some peers can be offered another Resource than all others: canaries get a new Certificate first, and a proxy
that serves something else than it took gets the same one as other bytes.

Names are loaded when somebody watches them and kept in memory, so that serving needs neither database nor
KMS. A name that nobody watches any more is kept for a while (a proxy that restarts while the database is down
still gets its last version) and then forgotten, its key with it. There is no snapshot of all names: one
Secret goes in a response, so no two names ever have to agree.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from random import Random
from typing import Final

from sds_server.model import Kind, Peer


class Missing(Enum):
    """Why there is no Resource for a name."""

    ABSENT = "absent"
    PENDING = "pending"


ABSENT: Final = Missing.ABSENT
PENDING: Final = Missing.PENDING


@dataclass(frozen=True, slots=True)
class Resource:
    """One Secret as it is sent: encoded once, shared by every stream.

    ``body`` is the serialised Envoy ``Secret`` message; it holds a private key and is hidden from ``repr``.
    ``generation`` is the Secret's generation that the content comes from. ``keyless``: a chain alone, for the
    one Target that keeps the key; ``by_path``: with the path at which an Envoy finds it there. ``kind`` is
    the Secret's, for ever.

    One with an OCSP staple has a ``bare`` one beside it: the same without. That is for who does not staple,
    for who refused it because of its staple, unless it ``must`` have one, and for all once that has ended.
    """

    name: str
    version: str
    generation: int
    body: bytes = field(repr=False)
    keyless: bool = False
    by_path: bool = False
    kind: Kind = Kind.TLS_CERTIFICATE
    bare: "Resource | None" = field(default=None, repr=False)
    staple_ends: datetime | None = None
    must: bool = False

    @property
    def unstapled(self) -> "Resource":
        """The same without its staple, for who asks for chain and key alone."""
        return self.bare or self

    @property
    def instead(self) -> "Resource | None":
        """What is left of it for who refused it, though it may still take the certificate."""
        return None if self.must else self.bare

    @property
    def is_for_envoy(self) -> bool:
        """Whether it can go out over SDS: a chain alone would be refused."""
        return not self.keyless or self.by_path


Entry = Resource | Missing
Exceptions = Mapping[Peer, Resource]
"""What some peers are offered in place of the Entry."""

View = Callable[[str], Entry | None]
"""What one peer may see of a name now; None: not loaded, say nothing."""

Wake = Callable[[str], None]
"""Told the name whose entry changed; quick, and never raises."""


class Catalog:
    """Name -> Entry for the names that somebody watches, and the watchers of each.

    All methods are quick and belong to one event loop. ``on_want`` is called with each name that gets its
    first watcher and is not loaded; whoever loads it answers with `publish`.
    """

    def __init__(self, *, on_want: Callable[[str], None] | None = None, rng: Random | None = None) -> None:
        self.on_want = on_want
        self._rng = rng or Random()  # noqa: S311 - who comes first is no secret
        self._entries: dict[str, Entry] = {}
        self._exceptions: dict[str, Exceptions] = {}
        self._before: dict[str, Resource] = {}
        self._watchers: dict[str, set[Wake]] = {}
        self._idle_since: dict[str, float] = {}
        self._kinds: dict[str, Kind] = {}
        self.closed = False
        """Nothing is taken in or given away: see `close`."""

    def close(self) -> None:
        """Forget all content at once, and take in none until `open`; who watches goes on watching."""
        self.closed = True
        for content in (self._entries, self._exceptions, self._before):
            content.clear()

    def open(self) -> None:
        """Take in content again."""
        self.closed = False

    def kind(self, name: str) -> Kind | None:
        """Return what the name is, for ever; None: not loaded, or there is none of that name."""
        entry = self._entries.get(name)
        return entry.kind if isinstance(entry, Resource) else self._kinds.get(name)

    def learn(self, kinds: Mapping[str, Kind]) -> None:
        """Remember what these names are, also while nothing is issued: before their entries are taken in."""
        self._kinds.update(kinds)

    def look(self, name: str, peer: Peer | None = None) -> Entry | None:
        """Return what this peer is offered under the name; None: not loaded."""
        exceptions = self._exceptions.get(name)
        if exceptions and peer is not None and (resource := exceptions.get(peer)) is not None:
            return resource
        return self._entries.get(name)

    def publish(self, entries: Mapping[str, Entry]) -> None:
        """Take in new values, the same for all peers, and wake the streams that watch what changed."""
        for name, entry in entries.items():
            self.offer(name, entry, {})

    def before(self, name: str) -> Resource | None:
        """Return what is left for a peer that refused what it is offered; None: there is nothing else."""
        return self._before.get(name)

    def offer(
        self, name: str, entry: Entry, exceptions: Exceptions, *, before: Resource | None = None
    ) -> None:
        """Take in a new value with its exceptions; an equal one wakes nobody."""
        if self.closed:
            return
        if before is None:
            self._before.pop(name, None)
        else:
            self._before[name] = before
        if self._entries.get(name) == entry and self._exceptions.get(name, {}) == exceptions:
            return
        self._entries[name] = entry
        if exceptions:
            self._exceptions[name] = exceptions
        else:
            self._exceptions.pop(name, None)
        # In another order each time, so that nobody is always the first to meet what is bad, or the last.
        watchers = list(self._watchers.get(name, ()))
        self._rng.shuffle(watchers)
        for wake in watchers:
            wake(name)

    def watch(self, names: Iterable[str], wake: Wake) -> None:
        """Call ``wake`` whenever one of the names changes, until `unwatch`."""
        for name in names:
            self._watchers.setdefault(name, set()).add(wake)
            self._idle_since.pop(name, None)
            if name not in self._entries and self.on_want is not None:
                self.on_want(name)

    def unwatch(self, names: Iterable[str], wake: Wake, *, now: float) -> None:
        """Stop; ``now`` (monotonic seconds) is when a name without watchers starts to be idle."""
        for name in names:
            watchers = self._watchers.get(name)
            if watchers is None:
                continue
            watchers.discard(wake)
            if not watchers:
                del self._watchers[name]
                self._idle_since[name] = now

    def forget_idle(self, *, before: float) -> list[str]:
        """Forget the names that nobody has watched since ``before``, and say which."""
        forgotten = [name for name, since in self._idle_since.items() if since < before]
        for name in forgotten:
            del self._idle_since[name]
            self._entries.pop(name, None)
            self._exceptions.pop(name, None)
            self._before.pop(name, None)
            self._kinds.pop(name, None)
        return forgotten

    @property
    def known(self) -> frozenset[str]:
        """The names to keep up to date: watched now, or not yet forgotten."""
        return frozenset(self._watchers) | frozenset(self._entries)
