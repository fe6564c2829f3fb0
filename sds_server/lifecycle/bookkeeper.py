"""The bookkeeper: writes into the audit what no transaction of its own would.

A call that is refused, a list of whom to deny, a KMS that falls silent: each happens in memory, at a speed
that others decide. What is noted here is written as soon as the database takes it; what a peer may do without
end is counted beyond its first times (`inventory.audit.append_bounded`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sds_server.inventory import audit
from sds_server.inventory.audit import Deed, Deeds
from sds_server.inventory.database import Database
from sds_server.keys.kms import Turn
from sds_server.log import get
from sds_server.model import Identity

NOTES_MAX: Final = 1_000
"""Of our own doings: some a day. More means that the database was away for long."""

PEERS_MAX: Final = 1_000
"""Whose deeds are counted one by one between two steps; nobody has so many names to call by."""

NOBODY: Final = "nobody"
"""Who calls without a name: all of them together, so that a flood of strangers is one count."""

_log = get("bookkeeper")

Tally = tuple[str, str]
"""Who did it, and which action it is."""


@dataclass(frozen=True, slots=True)
class _Note:
    action: str
    subject: str
    actor: str
    detail: Mapping[str, Any]


class Bookkeeper:
    """Notes at once, never blocks, never raises; `step` writes."""

    def __init__(self, *, database: Database, actor: str) -> None:
        self._database = database
        self._actor = actor
        self.on_news: Callable[[], None] = lambda: None
        self._notes: deque[_Note] = deque()
        self._deeds: dict[Tally, Deeds] = {}
        self._dropped = 0
        self._writing = asyncio.Lock()
        """The last step of a process comes while its loop may be at one: together they write all twice."""

    def note(self, action: str, subject: str, *, actor: str | None = None, **detail: object) -> None:
        """Write an entry soon; ``actor`` None: this replica."""
        if len(self._notes) >= NOTES_MAX:
            self._dropped += 1
            return
        self._notes.append(_Note(action, subject, actor or self._actor, detail))
        self.on_news()

    def count(self, action: str, subject: str, *, actor: str, **detail: object) -> None:
        """Write an entry of what may happen without end: its first times, then how often."""
        tally = (actor, action)
        if tally not in self._deeds and len(self._deeds) >= PEERS_MAX:
            tally = (NOBODY, action)
        self._deeds[tally] = self._deeds.get(tally, Deeds()).and_one(Deed(subject, detail))
        self.on_news()

    def refused(self, caller: str | None, call: str, *, path: str, why: str, address: str | None) -> None:
        """The API refused a call; ``caller`` None: it showed nothing that is worth a name."""
        self.count("api.refused", call, actor=caller or NOBODY, path=path, why=why, address=address)

    def kms(self, kek_uri: str, turn: Turn, why: str | None) -> None:
        """A KMS has fallen silent, refused to wrap, or answers again; it may do so in turns."""
        self.count(f"kms.{turn}", kek_uri, actor=self._actor, why=why)

    def deny(self, identities: Sequence[Identity], *, actor: str) -> None:
        """Whom the configuration denies was read again, and is other than before."""
        self.note("deny.changed", "sds.deny", actor=actor, identities=list(identities))

    async def step(self) -> None:
        """Write all that is new.

        Raises:
            Unavailable: the database does not answer; what is noted stays.
        """
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        notes, deeds = tuple(self._notes), dict(self._deeds)
        if not notes and not deeds:
            return
        async with self._database.transaction() as tx:
            for note in notes:
                await audit.append(
                    tx, action=note.action, actor=note.actor, subject=note.subject, detail=note.detail
                )
            for (actor, action), some in sorted(deeds.items(), key=lambda item: item[0]):
                # Ours are counted for each of us: two replicas tell of one KMS what each has seen.
                await audit.append_bounded(
                    tx, action=action, actor=actor, identity=Identity(actor), deeds=some
                )
        for _ in notes:
            self._notes.popleft()
        for tally, some in deeds.items():
            left = self._deeds.pop(tally).without(some)
            if left is not None:
                self._deeds[tally] = left
        if self._dropped:
            _log.error("audit.dropped", count=self._dropped)
            self._dropped = 0
