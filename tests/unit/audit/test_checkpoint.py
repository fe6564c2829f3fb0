"""Checkpoints: C2SP's form, so that other tools read them, and who has signed."""

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sds_server.audit.checkpoint import Checkpoint, PublicKey, Signer, parse, signers
from sds_server.errors import AuditBroken

SIGNER = Signer("certvoy/test", Ed25519PrivateKey.from_private_bytes(bytes(32)))
ROOT = "A" * 43 + "="
HEAD = Checkpoint("certvoy/test", 1234, bytes(range(32)))

# The example of Go's package that signed notes come from (golang.org/x/mod/sumdb/note).
NEUMANN = PublicKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u2014 PeterNeumann \
x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""


def test_a_note_that_go_signed_is_believed():
    assert {NEUMANN} == signers(NOTE, [NEUMANN, SIGNER.public])


def test_a_key_is_read_back_from_its_text():
    assert SIGNER.public == PublicKey.parse(str(SIGNER.public))


def test_a_checkpoint_is_three_lines_and_a_signature():
    text, signature = SIGNER.sign(HEAD).split("\n\n")

    assert ["certvoy/test", "1234", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="] == text.split("\n")
    assert signature.startswith("\u2014 certvoy/test ")
    assert signature.endswith("\n")


def test_a_note_is_read_back_and_its_signer_named():
    note = SIGNER.sign(HEAD)

    assert HEAD == parse(note)
    assert {SIGNER.public} == signers(note, [SIGNER.public, NEUMANN])


def test_a_note_may_have_other_lines_and_other_signatures():
    """C2SP tlog-checkpoint: extension lines follow the root; signatures of unknown keys are passed over."""
    mine = SIGNER.sign(HEAD)
    theirs = f"\u2014 witness {base64.b64encode(bytes(68)).decode()}\n\u2014 no-base64 %%%\nno signature\n"

    assert {SIGNER.public} == signers(mine + theirs, [SIGNER.public])
    assert HEAD == parse(mine.replace("\n\n", "\nextension\n\n"))


@pytest.mark.parametrize(
    "changed",
    [
        lambda note: note.replace("1234", "1235"),
        lambda note: note.replace("certvoy/test\n", "certvoy/other\n", 1),
        lambda note: note.replace("AAEC", "AAED"),
        lambda note: note.replace("\u2014 certvoy/test", "\u2014 certvoy/other"),
        lambda note: note.partition("\n\n")[0],
        lambda _: Signer("certvoy/test", Ed25519PrivateKey.generate()).sign(HEAD),
    ],
    ids=["size", "origin", "root", "name", "unsigned", "other-key"],
)
def test_a_note_that_was_changed_is_signed_by_nobody(changed):
    assert frozenset() == signers(changed(SIGNER.sign(HEAD)), [SIGNER.public])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "a\n1\n",
        f"a\nx\n{ROOT}\n",
        f"a\n01\n{ROOT}\n",
        "a\n1\nAA==\n",
        "a\n1\n%%\n",
        f"\n1\n{ROOT}\n",
        "x" * 5000,
    ],
)
def test_what_is_no_checkpoint_is_not_read(note):
    with pytest.raises(AuditBroken):
        parse(note)


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+00000000+AQ==", str(NEUMANN).replace("c74f20a3", "c74f20a4"), "a+zz+%%"]
)
def test_what_is_no_key_is_not_read(text):
    with pytest.raises(AuditBroken, match="no verifier key"):
        PublicKey.parse(text)


def test_a_key_is_another_in_another_name():
    """The name is hashed into what names the key: who signs for one log cannot be taken for another's."""
    assert SIGNER.public.id != replace(SIGNER.public, name="certvoy/other").id
