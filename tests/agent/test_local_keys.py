"""Keys made here: kept before anybody hears of them, found by a chain, removed when nobody can ask."""

import os
import stat
from pathlib import Path

import pytest

from acme_engine import keys
from sds_server.agent import local_keys
from sds_server.agent.local_keys import PREFIX, KeyFile, LocalKeys, expendable
from sds_server.errors import OperatorError


def new():
    return keys.generate(keys.KeyType.ECDSA_P256)


def spki(key):
    return keys.spki_sha256(key.public_key())


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "pair" / "keys"


@pytest.fixture
def kept(directory):
    return LocalKeys(directory.parent)


def test_a_key_is_for_the_agent_alone_and_named_by_its_public_half(kept, directory):
    key = new()
    kept.add(key)
    (file,) = directory.iterdir()

    assert f"000001-{spki(key).hex()[:PREFIX]}.pem" == file.name
    assert (0o600, 0o700) == (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(directory.stat().st_mode))
    assert keys.pem(key) == file.read_bytes()


@pytest.mark.parametrize("key_type", keys.KeyType)
def test_a_key_of_each_type_is_found_again(kept, key_type):
    key = keys.generate(key_type)
    kept.add(new())
    kept.add(key)

    assert keys.pem(key) == keys.pem(kept.find(spki(key)))
    assert keys.pem(key) == keys.pem(kept.newest(after=None))
    assert kept.find(spki(new())) is None


def test_a_key_that_cannot_be_synced_is_not_there(kept, directory, monkeypatch):
    kept.add(new())

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    key = new()
    with pytest.raises(OperatorError, match="No space left"):
        kept.add(key)
    monkeypatch.undo()

    assert kept.find(spki(key)) is None
    assert 1 == len(list(directory.glob("*.pem")))
    kept.tidy(current=spki(new()), before=None)
    assert 1 == len(list(directory.iterdir()))


def test_the_directory_entry_is_synced_before_the_key_counts_as_kept(kept, directory, monkeypatch):
    synced = []
    real = os.fsync

    def watched(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    kept.add(new())

    assert [str(directory.parent), str(directory)] == [synced[0], synced[-1]]
    assert any(".partial" in path for path in synced)


def test_a_planted_link_is_not_followed(kept, directory, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory.parent.mkdir(mode=0o700)
    directory.symlink_to(elsewhere)
    with pytest.raises(OperatorError, match="a directory is wanted"):
        kept.add(new())

    assert [] == list(elsewhere.iterdir())


def test_a_planted_link_in_the_place_of_a_key_is_no_key(kept, directory, tmp_path):
    key = new()
    (tmp_path / "stolen.pem").write_bytes(keys.pem(key))
    kept.add(new())
    (directory / KeyFile(2, spki(key).hex()[:PREFIX]).name).symlink_to(tmp_path / "stolen.pem")
    with pytest.raises(OperatorError):
        kept.find(spki(key))


def test_a_directory_where_others_may_write_is_refused(kept, directory):
    kept.add(new())
    directory.chmod(0o770)
    with pytest.raises(OperatorError, match="others may write there"):
        kept.find(spki(new()))


def test_what_a_name_promises_is_compared_with_what_the_file_holds(kept, directory):
    promised, other = new(), new()
    kept.add(promised)
    (file,) = directory.iterdir()
    file.write_bytes(keys.pem(other))

    assert kept.find(spki(promised)) is None


def test_a_damaged_file_is_passed_over(kept, directory):
    first = new()
    kept.add(first)
    kept.add(new())
    max(directory.iterdir()).write_text("damaged")

    assert keys.pem(first) == keys.pem(kept.newest(after=None))


def test_the_key_that_is_served_and_those_before_it_are_not_unused(kept):
    first, second, third = new(), new(), new()
    for key in (first, second):
        kept.add(key)

    assert kept.newest(after=spki(second)) is None
    kept.add(third)
    assert spki(third) == spki(kept.newest(after=spki(second)))


def test_what_no_chain_can_ask_for_is_removed(kept):
    made = [new() for _ in range(5)]
    for key in made:
        kept.add(key)
    removed = kept.tidy(current=spki(made[2]), before=spki(made[0]))

    assert 1 == removed
    assert [True, False, True, True, True] == [kept.find(spki(key)) is not None for key in made]


def test_where_what_is_served_has_no_key_here_all_of_them_stay():
    files = [KeyFile(n, f"{n:0{PREFIX}x}") for n in range(1, 4)]

    assert [] == expendable(files, current=b"\xff" * 32, before=None)


def test_keys_are_bounded_and_the_newest_stay(kept, directory, monkeypatch):
    monkeypatch.setattr(local_keys, "KEPT_MAX", 3)
    for _ in range(5):
        kept.add(new())

    assert ["000003", "000004", "000005"] == sorted(file.name[:6] for file in directory.iterdir())


def test_numbers_grow_past_what_is_removed(kept, directory):
    made = [new() for _ in range(3)]
    for key in made:
        kept.add(key)
    kept.tidy(current=spki(made[2]), before=None)
    kept.add(new())

    assert ["000003", "000004"] == sorted(file.name[:6] for file in directory.iterdir())
