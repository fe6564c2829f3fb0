"""Is this audit what was signed? Decides leaf by leaf, with no database, and names the first that is bad.

An entry is good if its hash is its leaf's, and a leaf if a checkpoint of its size or above has the root of
all leaves so far and is signed by a key that the verifier knew before. Hashes that come with the audit are
worth nothing by themselves.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sds_server.audit import checkpoint, entry, tree
from sds_server.audit.checkpoint import Checkpoint, PublicKey
from sds_server.errors import AuditBroken

FINDINGS_MAX: Final = 100
"""So many are kept, the first ones: after those it is clear that nothing holds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and from which leaf on."""

    index: int
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what was found, the first bad leaf first."""

    size: int
    root: bytes
    checkpoints: int
    unsealed: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Verifier:
    """Takes the audit in its order: each leaf, then the checkpoint of that size; at last what is in no leaf.

    ``keys`` may sign; ``known`` are notes of checkpoints that lie elsewhere: with these nobody can give
    another past, nor a shorter one.
    """

    keys: frozenset[PublicKey]
    known: Iterable[str] = ()
    _edge: tree.Edge = field(default_factory=tree.Edge, init=False)
    _good: int = field(default=0, init=False)
    _broken: bool = field(default=False, init=False)
    _origin: str | None = field(default=None, init=False)
    _elsewhere: Mapping[int, set[bytes]] = field(init=False)
    _checkpoints: int = field(default=0, init=False)
    _unsealed: int = field(default=0, init=False)
    _newest: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _findings: list[Finding] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        elsewhere: dict[int, set[bytes]] = defaultdict(set)
        for note in self.known:
            found = self._read(note, "a checkpoint that was kept elsewhere")
            if found is not None:
                elsewhere[found.size].add(found.root)
        self._elsewhere = elsewhere

    def leaf(self, index: int, hashed: bytes, document: dict[str, Any] | None) -> None:
        """Take a leaf: its stored hash, and the entry that it is said to be of; None: there is none."""
        if self._unsealed:
            self._find(index, "it stands behind entries that are in no leaf")
            self._broken = True
        if index != self._edge.size:
            if not self._broken:
                self._find(self._edge.size, f"leaf {self._edge.size} is missing: the next one is {index}")
            self._broken = True
        if document is None:
            self._find(index, "its entry is gone")
        elif entry.hash_of(document) != hashed:
            self._find(index, f"entry {_id(document)} is not the one that was sealed")
        else:
            cluster, place = _place(document)
            self._newest[cluster] = max(self._newest.get(cluster, place), place)
        if self._broken:
            return
        self._edge, _ = self._edge.append(hashed)
        roots = self._elsewhere.get(self._edge.size, set())
        if roots and roots - {self._edge.root}:
            self._differs("the checkpoint of that size that was kept elsewhere")

    def checkpoint(self, note: str) -> None:
        """Take a checkpoint of the leaves so far."""
        self._checkpoints += 1
        found = self._read(note, f"the checkpoint after leaf {self._edge.size - 1}")
        if found is None or self._broken:
            return
        if found.size != self._edge.size:
            self._find(self._good, f"a checkpoint of {found.size} leaves stands after {self._edge.size}")
        elif found.root != self._edge.root:
            self._differs("the checkpoint of that size")
        else:
            self._good = found.size
            self._elsewhere.get(found.size, set()).discard(found.root)

    def unsealed(self, document: dict[str, Any]) -> None:
        """Take an entry that is in no leaf."""
        self._unsealed += 1
        cluster, place = _place(document)
        # One database's are sealed in the order of their transactions: what is older was put there later.
        if place < self._newest.get(cluster, place):
            self._find(
                self._edge.size,
                f"entry {_id(document)} is in no leaf, and older than some that are: it was inserted, or its"
                " leaf is gone",
            )

    def end(self) -> Report:
        """Return what was found."""
        size = self._edge.size
        if self._good < size and not self._broken:
            self._find(self._good, f"no signed checkpoint vouches for leaves {self._good} to {size - 1}")
        for wanted, roots in sorted(self._elsewhere.items()):
            if wanted > size:
                self._find(size, f"the audit ends here, and {wanted} leaves were witnessed elsewhere")
                break
            if roots and wanted > 0:
                self._find(
                    wanted - 1,
                    f"the checkpoint of {wanted} leaves is gone, or another than was kept elsewhere",
                )
        found = sorted(self._findings, key=lambda finding: finding.index)
        return Report(size, self._edge.root, self._checkpoints, self._unsealed, tuple(found))

    def _read(self, note: str, what: str) -> Checkpoint | None:
        try:
            found = checkpoint.parse(note)
        except AuditBroken as e:
            self._find(self._good, f"{what}: {e}")
            return None
        if not checkpoint.signers(note, self.keys):
            self._find(
                self._good, f"{what} ({found.size} leaves) is signed by none of the keys that are known"
            )
            return None
        if self._origin is None:
            self._origin = found.origin
        if found.origin != self._origin:
            self._find(self._good, f"{what} is of {found.origin}, not of {self._origin}")
            return None
        return found

    def _differs(self, what: str) -> None:
        """Note once that the leaves are not what was signed: all checkpoints after that differ as well."""
        last = self._edge.size - 1
        where = f"leaf {last}" if last == self._good else f"one of the leaves {self._good} to {last}"
        self._find(self._good, f"{where} is not what was sealed: {what} has another root")
        self._broken = True

    def _find(self, index: int, what: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(index, what))


def _id(document: dict[str, Any]) -> str:
    """Return an entry's id for people: whoever wrote the export could write to their terminal by it."""
    found = document.get("id")
    return found if isinstance(found, str) and re.fullmatch("[0-9]{1,19}", found) else ascii(found)[:50]


def _place(document: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    return str(document["cluster"]), (int(document["xid"]), int(document["id"]))


@dataclass(frozen=True, slots=True)
class Proof:
    """That one entry is in the audit: what a third party checks with a public key, and no database."""

    document: dict[str, Any]
    index: int
    path: tuple[bytes, ...]
    note: str

    def check(self, keys: frozenset[PublicKey]) -> Checkpoint:
        """Return the checkpoint that it is proved by.

        Raises:
            AuditBroken: it proves nothing.
        """
        head = checkpoint.parse(self.note)
        if not checkpoint.signers(self.note, keys):
            raise AuditBroken("the proof's checkpoint is signed by none of the keys that are known")
        leaf = entry.hash_of(self.document)
        if not tree.includes(leaf, self.index, head.size, path=self.path, root=head.root):
            raise AuditBroken(
                f"the path does not lead from entry {self.document.get('id')} to the signed root"
            )
        return head
