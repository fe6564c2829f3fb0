"""The key that signs and the file of checkpoints: made, kept, refused."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sds_server.audit import witness
from sds_server.audit.checkpoint import Checkpoint, PublicKey, Signer, signers
from sds_server.audit.signing import open_signer
from sds_server.audit.witness import Witness
from sds_server.errors import AuditBroken, CustodyError, Unavailable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNER = Signer("certvoy/test", Ed25519PrivateKey.from_private_bytes(bytes(32)))


def note(size, root=0):
    return SIGNER.sign(Checkpoint("certvoy/test", size, bytes([root]) * 32))


def test_a_key_is_made_once_for_its_owner_alone_with_its_public_half_beside_it(tmp_path):
    path = tmp_path / "state" / "audit-key.pem"

    made, again = (open_signer(path, origin="certvoy/test") for _ in range(2))

    assert made.public == again.public == PublicKey.parse((path.parent / "audit-key.pub").read_text())
    assert 0o600 == path.stat().st_mode & 0o777
    assert ["audit-key.pem", "audit-key.pub"] == sorted(file.name for file in path.parent.iterdir())
    signed = made.sign(Checkpoint("certvoy/test", 1, bytes(32)))
    assert {made.public} == signers(signed, [again.public])


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["of the key before", "of something else"])
def test_a_public_half_that_lies_there_is_kept_when_the_key_is_another(tmp_path, content):
    """What the key before has signed is verified by that alone."""
    path, public = tmp_path / "audit-key.pem", tmp_path / "audit-key.pub"
    open_signer(path, origin="certvoy/test")
    if content is not None:
        public.write_bytes(content)
    before = public.read_bytes()
    path.unlink()

    made = open_signer(path, origin="certvoy/test")

    assert made.public == PublicKey.parse(public.read_text())
    (kept,) = tmp_path.glob("audit-key-*.pub")
    assert before == kept.read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "key.pem"
    open_signer(path, origin="o")
    path.chmod(mode)

    with pytest.raises(CustodyError, match=f"has mode {mode:04o}") as refused:
        open_signer(path, origin="o")

    assert "chmod 600" in refused.value.next_step


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["empty", "nothing", "another-kind"],
)
def test_what_is_no_ed25519_key_is_refused(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(CustodyError, match="must hold an Ed25519 key"):
        open_signer(path, origin="o")


def test_a_key_behind_a_symlink_and_a_directory_are_refused(tmp_path):
    open_signer(tmp_path / "key.pem", origin="o")
    (tmp_path / "link.pem").symlink_to(tmp_path / "key.pem")
    (tmp_path / "directory").mkdir(mode=0o700)

    with pytest.raises(CustodyError, match="is a symlink"):
        open_signer(tmp_path / "link.pem", origin="o")
    with pytest.raises(CustodyError, match="is not a regular file"):
        open_signer(tmp_path / "directory", origin="o")


def test_checkpoints_are_read_back_the_newest_last(tmp_path):
    path = tmp_path / "state" / "checkpoints.jsonl"
    kept = Witness(path)
    assert None is kept.last
    for size in (1, 5, 9):
        kept.append(note(size), at=NOW)

    assert (note(1), note(5), note(9)) == witness.read(path).notes
    assert 9 == kept.last.size == Witness(path).last.size


def test_what_a_stopped_machine_broke_off_is_forgotten(tmp_path):
    path = tmp_path / "checkpoints.jsonl"
    Witness(path).append(note(1), at=NOW)
    with path.open("a") as file:
        file.write('{"at": "2026-01-01T00:00:00+00:00", "no')

    again = Witness(path)
    assert 1 == again.last.size
    again.append(note(2), at=NOW)
    assert (note(1), note(2)) == witness.read(path).notes


@pytest.mark.parametrize("line", ["x", "{}", "[]", '{"at": 1, "note": "x"}', '{"fork": 1}'])
def test_a_line_that_was_spoilt_is_named(tmp_path, line):
    path = tmp_path / "checkpoints.jsonl"
    Witness(path).append(note(1), at=NOW)
    with path.open("a") as file:
        file.write(line + "\n")

    with pytest.raises(AuditBroken, match="line 2"):
        Witness(path)


def test_a_fork_that_was_accepted_gives_up_what_came_after_it(tmp_path):
    path = tmp_path / "checkpoints.jsonl"
    kept = Witness(path)
    for size in (1, 5, 9):
        kept.append(note(size), at=NOW)

    kept.accept(size=5, at=NOW)
    assert 5 == kept.last.size
    kept.append(note(6, root=1), at=NOW)

    assert (note(1), note(5), note(6, root=1)) == witness.read(path).notes
    assert 1 == witness.read(path).given_up
    assert {"size": 5, "witnessed": 9} == json.loads(path.read_text().splitlines()[3])["fork"]


def test_checkpoints_are_read_to_a_moment(tmp_path):
    path = tmp_path / "checkpoints.jsonl"
    kept = Witness(path)
    for hour, size in enumerate((1, 5, 9)):
        kept.append(note(size), at=NOW + timedelta(hours=hour))

    assert (note(1), note(5)) == witness.read(path, until=NOW + timedelta(minutes=90)).notes


def test_a_file_that_has_grown_large_is_thinned_where_it_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr(witness, "BYTES_MAX", 20_000)
    path = tmp_path / "checkpoints.jsonl"
    kept = Witness(path)
    for size in range(1, 400):
        kept.append(note(size), at=NOW)

    found = [int(one.split("\n")[1]) for one in witness.read(path).notes]
    assert path.stat().st_size <= 20_000
    assert sorted(found) == found
    assert [*range(390, 400)] == found[-10:]
    assert 1 == found[0]
    assert ["checkpoints.jsonl"] == [file.name for file in tmp_path.iterdir()]


def test_a_file_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    kept = Witness(tmp_path / "new" / "checkpoints.jsonl")
    (tmp_path / "new").symlink_to(tmp_path / "file")

    with pytest.raises(Unavailable, match=r"audit\.checkpoints") as refused:
        kept.append(note(1), at=NOW)

    assert "nothing more is sealed" in refused.value.next_step
