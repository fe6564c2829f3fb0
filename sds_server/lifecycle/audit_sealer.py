"""Seals the audit: what was written becomes leaves of a Merkle tree, whose signed root leaves the database.

Entries are written by whoever changes something, in any order; here they get their place, seconds later, by
one replica at a time. A hash chain in the change's own transaction would have every writer wait for another.

Each replica is a witness as well: it keeps every head that it sees in a file of its own, if that goes on from
the one before, and says so if not. It signs what goes on from what it has seen, whoever has signed that: keys
of others it need not know, as who can write into the database could also have entries sealed.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sds_server.audit import checkpoint, tree, witness
from sds_server.audit.checkpoint import Checkpoint, Signer
from sds_server.audit.entry import Entry
from sds_server.audit.tree import Edge
from sds_server.audit.witness import Witness
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import AuditBroken, AuditForked, StaleLease
from sds_server.inventory import audit, audit_tree
from sds_server.inventory.audit_tree import Appended, Head
from sds_server.inventory.database import Database
from sds_server.log import get

EVERY: Final = timedelta(seconds=1)
BATCH: Final = 1000
"""Leaves of one checkpoint at most."""

BATCHES: Final = 100
"""So many in one step: a backlog does not keep the loop from saying that it is well."""

_log = get("audit")


class AuditSealer:
    """Seals in `step`."""

    def __init__(
        self, *, database: Database, signer: Signer, witness: Witness, holder: str, actor: str, clock: Clock
    ) -> None:
        """``holder`` is this life of the replica, ``actor`` who it is in the audit."""
        self._database = database
        self._signer = signer
        self._witness = witness
        self._holder = holder
        self._actor = actor
        self._clock = clock
        self._unsealed: timedelta | None = None
        self._looked_at = clock.monotonic()
        self.broken = False
        """Whether the tree is not the one that was witnessed here, or is damaged."""

        self.sealed_at: datetime | None = None
        """When the newest checkpoint was witnessed here."""

    @property
    def unsealed_s(self) -> float:
        """How old the oldest entry is that has no leaf; 0: all have."""
        if self._unsealed is None:
            return 0.0
        return self._unsealed.total_seconds() + self._clock.monotonic() - self._looked_at

    async def begin(self, *, accept_fork: bool) -> None:
        """Hold the database's tree against what was witnessed here, before anything is served.

        ``accept_fork``: somebody knows why it is another one: that is audited, and witnessed from now on.

        Raises:
            AuditForked: it is another tree, or one that ends before.
            AuditBroken: it is damaged in itself.
            Unavailable: the database does not answer, or a fork that is accepted cannot be written down.
        """
        try:
            head = await audit_tree.head(self._database)
            await self._edge(head)
            try:
                # The first step witnesses it: a disk that is full keeps nobody from serving.
                await self._news(head)
            except AuditForked as e:
                if not accept_fork:
                    raise
                await self._accept(head, reason=str(e))
                await self._news(head)
        except AuditBroken as e:
            if not accept_fork:
                raise
            # What is damaged is not sealed on, and says so for ever; but who must serve, serves.
            _log.error("audit.broken", error=str(e), hint=e.next_step)

    async def step(self) -> None:
        """Witness what others sealed, then seal what there is, if no other replica does.

        Raises:
            AuditForked: the tree is not the one that was witnessed here: nothing is sealed on it.
            AuditBroken: it is damaged in itself.
            Unavailable: the database does not answer, or a checkpoint cannot be witnessed.
        """
        try:
            await self._step()
        except AuditBroken as e:
            if not self.broken:
                _log.error("audit.broken", error=str(e), hint=e.next_step)
            self.broken = True
            raise
        self.broken = False

    async def _step(self) -> None:
        more = True
        for _ in range(BATCHES):
            head = await audit_tree.head(self._database)
            self._unsealed, self._looked_at = head.unsealed, self._clock.monotonic()
            await self._follow(head)
            if head.unsealed is None or not more:
                return
            more = await self._seal_batch(head)

    async def _seal_batch(self, head: Head) -> bool:
        """Seal the next entries; say whether there may be more by now.

        What comes while this batch is sealed waits for the next step: checkpoints are not made for a few.
        """
        lease_no = await audit_tree.claim(self._database, holder=self._holder)
        if lease_no is None:
            return False
        entries = await audit_tree.to_seal(self._database, limit=BATCH)
        if not entries:
            return False
        appended, edge = _append(await self._edge(head), entries)
        made = Checkpoint(self._signer.public.name, edge.size, edge.root)
        note = self._signer.sign(made)
        try:
            await audit_tree.seal(self._database, lease_no, appended, made, note=note)
        except StaleLease:
            return False
        crashpoint("audit.sealed")
        await self._keep(note, made)
        return len(entries) == BATCH

    async def _edge(self, head: Head) -> Edge:
        """Return the tree's right edge, which is what it says if its root is the one that was signed."""
        edge = await audit_tree.edge(self._database, head.size)
        if head.note is not None and edge.root != checkpoint.parse(head.note).root:
            raise AuditBroken(f"the audit's {head.size} leaves do not have the root of their checkpoint")
        return edge

    async def _follow(self, head: Head) -> None:
        """Witness the head, if it is the one that was witnessed last, or goes on from it."""
        now = await self._news(head)
        if now is not None:
            assert head.note is not None  # noqa: S101 - it is what was parsed
            await self._keep(head.note, now)

    async def _news(self, head: Head) -> Checkpoint | None:
        """Return the head if it goes on from the one that was witnessed last; None: it is that one."""
        seen = self._witness.last
        if head.note is None:
            if seen is not None:
                raise self._forked(head, seen)
            return None
        now = checkpoint.parse(head.note)
        if now == seen:
            return None
        await self._edge(head)
        if seen is not None and not await self._goes_on(seen, now):
            raise self._forked(head, seen)
        return now

    async def _goes_on(self, old: Checkpoint, new: Checkpoint) -> bool:
        """Whether the tree ``new``, as it is stored, begins with ``old``."""
        if old.size > new.size or old.origin != new.origin:
            return False
        nodes = await audit_tree.nodes(self._database, tree.consistency_nodes(old.size, new.size))
        path = tree.consistency(old.size, new.size, nodes)
        return tree.extends((old.size, old.root), (new.size, new.root), path)

    def _forked(self, head: Head, seen: Checkpoint) -> AuditForked:
        less = head.size < seen.size
        what = f"has {head.size} leaves" if less else f"has, in its {head.size} leaves, others than those"
        return AuditForked(
            f"the database's audit {what}, and {seen.size} were witnessed in {self._witness.path}: an older"
            " backup was restored, or somebody has rewritten it",
            hint="find out which: `certvoy audit verify` names the first leaf. If you restored it yourself,"
            " start with `certvoy serve --acknowledge-fork`, which is audited",
        )

    async def _accept(self, head: Head, *, reason: str) -> None:
        """Write down that somebody knows of the fork, in the audit and in the file, and go on from there."""
        notes = witness.read(self._witness.path).notes
        now = None if head.note is None else checkpoint.parse(head.note)
        # What was witnessed agrees up to some checkpoint, and not any more after it.
        low, high = 0, len(notes)
        while low < high:
            middle = (low + high) // 2
            if now is not None and await self._goes_on(checkpoint.parse(notes[middle]), now):
                low = middle + 1
            else:
                high = middle
        common = checkpoint.parse(notes[low - 1]).size if low else 0
        detail = {"witnessed": checkpoint.parse(notes[-1]).size, "leaves": head.size, "common": common}
        async with self._database.transaction() as tx:
            await audit.append(
                tx, action="audit.fork_accepted", actor=self._actor, subject="audit", detail=detail
            )
        await asyncio.to_thread(self._witness.accept, size=common, at=self._clock.now())
        _log.error("audit.fork_accepted", reason=reason, **detail)

    async def _keep(self, note: str, made: Checkpoint) -> None:
        await asyncio.to_thread(self._witness.append, note, at=self._clock.now())
        crashpoint("audit.checkpointed")
        self.sealed_at = self._clock.now()
        _log.info("audit.checkpointed", size=made.size, root=made.root.hex(), note=note)


def _append(edge: Edge, entries: Sequence[Entry]) -> tuple[Sequence[Appended], Edge]:
    appended = []
    for entry in entries:
        hashed = entry.leaf
        edge, nodes = edge.append(hashed)
        appended.append(Appended(entry, hashed, b"".join(nodes)))
    return appended, edge
