"""A Merkle tree of append-only leaves (RFC 6962 section 2, RFC 9162 section 2.1): roots, and proofs.

Nothing is ever hashed twice: each leaf completes some interior nodes, which are stored beside it, so that any
root or proof needs as many nodes as the tree is high. A stored node is believed only as part of a root that
somebody has signed.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


class Node(NamedTuple):
    """A complete subtree: ``2**level`` leaves, of which ``nth * 2**level`` is the first."""

    level: int
    nth: int

    @property
    def completed_by(self) -> int:
        """The leaf that completed it, and beside which it is stored."""
        return ((self.nth + 1) << self.level) - 1


Nodes = Mapping[Node, bytes]
Range = tuple[int, int]
"""Leaves from the first, without the second."""


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf: another prefix than an interior node's, so that neither can pass for the other."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an interior node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Edge:
    """The right edge of a tree, which is all that appending takes: its complete subtrees, left to right."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, size: int, nodes: Nodes) -> "Edge":
        """Return the edge of the first ``size`` leaves; ``nodes`` holds `edge_nodes` at least."""
        return cls(size, tuple(nodes[node] for node in edge_nodes(size)))

    def append(self, leaf: bytes) -> tuple["Edge", tuple[bytes, ...]]:
        """Return the edge with one leaf hash more, and the nodes above it that it completed, lowest first."""
        peaks, completed, hashed, size = list(self.peaks), [], leaf, self.size
        while size & 1:
            hashed = node_hash(peaks.pop(), hashed)
            completed.append(hashed)
            size >>= 1
        return Edge(self.size + 1, (*peaks, hashed)), tuple(completed)

    @property
    def root(self) -> bytes:
        """The tree's root."""
        return _fold(self.peaks) if self.peaks else EMPTY


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root of these leaf hashes."""
    edge = Edge()
    for leaf in leaves:
        edge, _ = edge.append(leaf)
    return edge.root


def edge_nodes(size: int) -> Sequence[Node]:
    """Return the complete subtrees of the first ``size`` leaves, left to right."""
    return _cover((0, size))


def inclusion_nodes(index: int, size: int) -> Sequence[Node]:
    """Return what `inclusion` reads."""
    return [node for part in _inclusion(index, size) for node in _cover(part)]


def inclusion(index: int, size: int, nodes: Nodes) -> tuple[bytes, ...]:
    """Return the proof that leaf ``index`` is in the tree of ``size`` leaves (RFC 9162 section 2.1.3.1)."""
    return tuple(_fold([nodes[node] for node in _cover(part)]) for part in _inclusion(index, size))


def consistency_nodes(old: int, new: int) -> Sequence[Node]:
    """Return what `consistency` reads."""
    return [node for part in _consistency(old, new) for node in _cover(part)]


def consistency(old: int, new: int, nodes: Nodes) -> tuple[bytes, ...]:
    """Return the proof that the tree of ``new`` leaves begins with ``old`` (RFC 9162 section 2.1.4.1)."""
    return tuple(_fold([nodes[node] for node in _cover(part)]) for part in _consistency(old, new))


def includes(leaf: bytes, index: int, size: int, *, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``path`` proves that this leaf hash is at ``index`` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, hashed = index, size - 1, leaf
    for step in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            hashed = node_hash(step, hashed)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            hashed = node_hash(hashed, step)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and hashed == root


def extends(old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]) -> bool:
    """Whether ``path`` proves that ``new`` (size, root) begins with ``old`` (RFC 9162 section 2.1.4.2)."""
    (first, old_root), (second, new_root) = old, new
    if not 0 <= first <= second:
        return False
    if first == second:
        return old_root == new_root and not path
    if first == 0:
        return old_root == EMPTY and not path
    steps = [old_root, *path] if first & (first - 1) == 0 else [*path]
    if not steps:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = steps[0]
    for step in steps[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(step, fr), node_hash(step, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, step)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == new_root


def _fold(peaks: Sequence[bytes]) -> bytes:
    hashed = peaks[-1]
    for peak in reversed(peaks[:-1]):
        hashed = node_hash(peak, hashed)
    return hashed


def _split(count: int) -> int:
    """Return the largest power of two below ``count`` (two or more)."""
    return 1 << (count - 1).bit_length() - 1


def _cover(part: Range) -> Sequence[Node]:
    """Return the complete subtrees of a range that begins where one of its size may."""
    begin, end = part
    found = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        found.append(Node(level, begin >> level))
        begin += 1 << level
    return found


def _inclusion(index: int, size: int) -> Sequence[Range]:
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    return path[::-1]


def _consistency(old: int, new: int) -> Sequence[Range]:
    if not 0 < old < new:
        return ()
    begin, end, whole, path = 0, new, True, []
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append((begin, end))
    return path[::-1]
