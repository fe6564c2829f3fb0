"""The Merkle tree, against RFC 6962's own examples and against the recursive definition."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds_server.audit import tree
from sds_server.audit.tree import Edge, Node

# The leaves, roots and proofs that Certificate Transparency's implementations are held against.
DATA = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [bytes.fromhex(text) for text in DATA]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def grown(leaves):
    """The tree of these leaf hashes: its edge, and every node stored as a database would."""
    edge, nodes = Edge(), {}
    for number, leaf in enumerate(leaves):
        edge, completed = edge.append(leaf)
        nodes[Node(0, number)] = leaf
        for level, hashed in enumerate(completed, start=1):
            node = Node(level, ((number + 1) >> level) - 1)
            assert number == node.completed_by
            nodes[node] = hashed
    return edge, nodes


def defined(leaves):
    """The root by RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def numbered(count):
    return [tree.leaf_hash(str(number).encode()) for number in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference(size):
    assert ROOTS[size] == tree.root(map(tree.leaf_hash, LEAVES[:size])).hex()


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_inclusion_proofs_are_those_of_the_reference(index, size):
    _, nodes = grown(map(tree.leaf_hash, LEAVES))

    assert PATHS[index, size] == [step.hex() for step in tree.inclusion(index, size, nodes)]


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference(old, new):
    _, nodes = grown(map(tree.leaf_hash, LEAVES))

    assert CONSISTENCY[old, new] == [step.hex() for step in tree.consistency(old, new, nodes)]


@given(st.integers(0, 300))
def test_an_appended_edge_has_the_root_of_the_definition(size):
    leaves = numbered(size)

    assert defined(leaves) == grown(leaves)[0].root


@given(st.integers(0, 300))
def test_an_edge_is_read_back_from_the_stored_nodes(size):
    edge, nodes = grown(numbered(size))

    assert edge == Edge.of(size, {node: nodes[node] for node in tree.edge_nodes(size)})


@given(st.data())
def test_every_leaf_is_proved_to_be_where_it_is_and_nowhere_else(data):
    size = data.draw(st.integers(1, 200))
    index = data.draw(st.integers(0, size - 1))
    leaves = numbered(size)
    edge, nodes = grown(leaves)
    path = tree.inclusion(index, size, {node: nodes[node] for node in tree.inclusion_nodes(index, size)})

    assert tree.includes(leaves[index], index, size, path=path, root=edge.root)
    wrong = data.draw(st.integers(0, size + 1).filter(lambda other: other != index))
    assert not tree.includes(leaves[index], wrong, size, path=path, root=edge.root)
    assert not tree.includes(tree.leaf_hash(b"another"), index, size, path=path, root=edge.root)


@given(st.data())
def test_every_tree_is_proved_to_begin_with_each_earlier_one_and_with_no_other(data):
    new = data.draw(st.integers(1, 200))
    old = data.draw(st.integers(0, new))
    leaves = numbered(new)
    edge, nodes = grown(leaves)
    path = tree.consistency(old, new, {node: nodes[node] for node in tree.consistency_nodes(old, new)})

    assert tree.extends((old, defined(leaves[:old])), (new, edge.root), path)
    assert not tree.extends((old, tree.leaf_hash(b"another")), (new, edge.root), path)
    if old:
        other = [*leaves[: old - 1], tree.leaf_hash(b"edited"), *leaves[old:]]
        assert not tree.extends((old, defined(leaves[:old])), (new, defined(other)), path)


@given(st.data())
def test_a_path_with_one_step_changed_more_or_less_proves_nothing(data):
    size = data.draw(st.integers(2, 100))
    index = data.draw(st.integers(0, size - 1))
    leaves = numbered(size)
    edge, nodes = grown(leaves)
    path = list(tree.inclusion(index, size, nodes))
    at = data.draw(st.integers(0, len(path) - 1))
    flipped = [*path[:at], bytes(byte ^ 1 for byte in path[at]), *path[at + 1 :]]

    for wrong in (flipped, path[:-1], [*path, path[0]]):
        assert not tree.includes(leaves[index], index, size, path=wrong, root=edge.root)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 1000])
def test_a_smaller_tree_never_extends_a_larger_one(size):
    edge, nodes = grown(numbered(size + 1))

    assert not tree.extends((size + 1, edge.root), (size, tree.root(numbered(size))), ())
    assert not tree.extends((size, edge.root), (size, tree.root(numbered(size))), ())
    assert nodes
