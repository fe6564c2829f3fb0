"""What a verifier finds in an audit that was changed, and what it finds in one that was not: nothing."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sds_server.audit import tree
from sds_server.audit.checkpoint import Checkpoint, Signer
from sds_server.audit.entry import Entry
from sds_server.audit.verify import Proof, Verifier
from sds_server.errors import AuditBroken

SIGNER = Signer("certvoy/test", Ed25519PrivateKey.from_private_bytes(bytes(32)))
KEYS = frozenset({SIGNER.public})


def entry(number, **changed):
    made = Entry(
        id=number + 1,
        cert_id=None,
        action="secret.created",
        actor="person:alice",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, number, tzinfo=UTC),
        xid=700 + number,
        cluster=7_000_000_000_000_000_000,
        subject="www",
        payload=f'{{"n":{number}}}',
    )
    return replace(made, **changed)


ENTRIES = [entry(number) for number in range(10)]
SEALED_AT = (3, 4, 8, 10)


def note(leaves, signer=SIGNER):
    return signer.sign(Checkpoint("certvoy/test", len(leaves), tree.root(leaves)))


NOTES = {size: note([found.leaf for found in ENTRIES[:size]]) for size in SEALED_AT}


def verified(*, entries=ENTRIES, leaves=None, notes=NOTES, known=NOTES, unsealed=()):
    leaves = [found.leaf for found in ENTRIES] if leaves is None else leaves
    verifier = Verifier(KEYS, known=known.values())
    for index, leaf in enumerate(leaves):
        found = entries[index] if index < len(entries) else None
        verifier.leaf(index, leaf, None if found is None else found.document)
        if index + 1 in notes:
            verifier.checkpoint(notes[index + 1])
    for found in unsealed:
        verifier.unsealed(found.document)
    return verifier.end()


def first(**changed):
    return verified(**changed).findings[0]


def test_an_audit_as_it_was_sealed_is_good():
    report = verified(unsealed=[entry(10)])

    assert () == report.findings
    assert (10, 4, 1) == (report.size, report.checkpoints, report.unsealed)


@pytest.mark.parametrize(
    "column",
    [
        {"id": 99},
        {"cert_id": "00000000-0000-0000-0000-000000000001"},
        {"action": "secret.deleted"},
        {"actor": "person:bob"},
        {"timestamp": datetime(2026, 1, 2, tzinfo=UTC)},
        {"xid": 1},
        {"cluster": 1},
        {"subject": "mail"},
        {"payload": '{"n": 5}'},
    ],
    ids=lambda column: next(iter(column)),
)
def test_no_column_can_be_edited(column):
    edited = [*ENTRIES[:5], replace(ENTRIES[5], **column), *ENTRIES[6:]]

    assert 5 == first(entries=edited).index


def test_an_edit_whose_leaf_was_hashed_anew_is_found_by_the_next_checkpoint():
    edited = [*ENTRIES[:5], entry(5, actor="person:bob"), *ENTRIES[6:]]

    found = first(entries=edited, leaves=[one.leaf for one in edited])

    assert 4 == found.index
    assert "one of the leaves 4 to 7" in found.what


def test_checkpoints_signed_by_another_key_vouch_for_nothing():
    other = Signer("certvoy/test", Ed25519PrivateKey.generate())
    edited = [*ENTRIES[:5], entry(5, actor="person:bob"), *ENTRIES[6:]]
    leaves = [one.leaf for one in edited]
    forged = NOTES | {8: note(leaves[:8], other), 10: note(leaves, other)}

    report = verified(entries=edited, leaves=leaves, notes=forged, known={})

    assert 4 == report.findings[0].index
    assert "signed by none" in report.findings[0].what


def test_a_tail_that_is_gone_is_found_by_what_was_kept_elsewhere():
    leaves = [found.leaf for found in ENTRIES[:8]]

    assert 8 == first(leaves=leaves).index
    assert () == verified(leaves=leaves, known={}).findings


def test_a_tail_that_no_checkpoint_covers_is_found():
    assert 8 == first(notes={size: NOTES[size] for size in (3, 4, 8)}, known={}).index


def test_a_checkpoint_that_is_gone_is_found_by_what_was_kept_elsewhere():
    assert 3 == first(notes={size: NOTES[size] for size in (3, 8, 10)}).index


def test_an_entry_that_is_gone_is_named():
    assert 5 == first(entries=[*ENTRIES[:5], None, *ENTRIES[6:]]).index


def test_a_leaf_that_is_gone_is_named():
    verifier = Verifier(KEYS, known=NOTES.values())
    for index in (0, 1, 3, 4):
        verifier.leaf(index, ENTRIES[index].leaf, ENTRIES[index].document)

    assert 2 == verifier.end().findings[0].index


def test_an_entry_that_was_inserted_behind_the_sealed_ones_is_found():
    assert 10 == first(unsealed=[entry(5, id=400)]).index


def test_one_that_was_inserted_is_found_also_where_it_is_shown_before_the_leaves():
    verifier = Verifier(KEYS, known=NOTES.values())
    verifier.unsealed(entry(5, id=400).document)
    for index, found in enumerate(ENTRIES[:3]):
        verifier.leaf(index, found.leaf, found.document)
    verifier.checkpoint(NOTES[3])

    assert "behind entries that are in no leaf" in verifier.end().findings[0].what


def test_entries_of_one_transaction_may_be_sealed_one_after_the_other():
    assert () == verified(unsealed=[entry(10, xid=ENTRIES[9].xid)]).findings


def test_another_logs_checkpoint_vouches_for_nothing():
    signer = Signer("certvoy/test", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    other = signer.sign(Checkpoint("certvoy/other", 10, tree.root(found.leaf for found in ENTRIES)))

    assert 8 == first(notes=NOTES | {10: other}, known={}).index


def test_a_proof_convinces_without_the_others():
    edge, nodes = tree.Edge(), {}
    for number, found in enumerate(ENTRIES):
        edge, completed = edge.append(found.leaf)
        nodes |= {tree.Node(0, number): found.leaf}
        nodes |= {
            tree.Node(level, ((number + 1) >> level) - 1): hashed
            for level, hashed in enumerate(completed, start=1)
        }
    proof = Proof(ENTRIES[6].document, 6, tree.inclusion(6, 10, nodes), NOTES[10])

    assert edge.root == proof.check(KEYS).root
    for wrong in (
        replace(proof, document=ENTRIES[5].document),
        replace(proof, index=5),
        replace(proof, path=proof.path[1:]),
        replace(proof, note=NOTES[8]),
    ):
        with pytest.raises(AuditBroken):
            wrong.check(KEYS)
    with pytest.raises(AuditBroken, match="none of the keys"):
        proof.check(frozenset())
