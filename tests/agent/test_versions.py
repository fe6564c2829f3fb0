"""Files that are replaced whole, in a directory that nobody else may touch."""

import os
import stat

import pytest

from sds_server.agent.versions import CURRENT, Versions
from sds_server.errors import OperatorError

FILES = {"key.pem": (b"secret", 0o600), "chain.pem": (b"public", 0o644)}


@pytest.fixture
def versions(tmp_path):
    return Versions(tmp_path / "pairs")


def place(versions, content=b"secret"):
    name = versions.add({"key.pem": (content, 0o600)})
    versions.point(CURRENT, name)
    return name


def test_what_a_link_names_is_all_there(versions):
    name = versions.add(FILES)
    versions.point(CURRENT, name)

    assert name == versions.named(CURRENT)
    assert b"secret" == (versions.directory / CURRENT / "key.pem").read_bytes()
    assert b"public" == versions.read(name, "chain.pem")


def test_modes_hold_whatever_the_umask(versions):
    before = os.umask(0o777)
    try:
        name = versions.add(FILES)
    finally:
        os.umask(before)

    assert 0o600 == stat.S_IMODE((versions.directory / name / "key.pem").stat().st_mode)
    assert 0o644 == stat.S_IMODE((versions.directory / name / "chain.pem").stat().st_mode)


def test_a_group_may_read_and_nobody_else(tmp_path):
    """For a program that reads the files as another user; our own group stands in for it."""
    shared = Versions(tmp_path / "shared", group=os.getegid())
    name = shared.add(FILES)

    assert 0o750 == stat.S_IMODE(shared.directory.stat().st_mode)
    assert 0o750 == stat.S_IMODE((shared.directory / name).stat().st_mode)
    assert 0o640 == stat.S_IMODE((shared.directory / name / "key.pem").stat().st_mode)


def test_only_what_is_kept_stays(versions):
    first, second = place(versions), place(versions)
    (versions.directory / f"{first}.partial").symlink_to("nowhere")  # of one that was killed
    (versions.directory / "notes.txt").write_text("not ours")
    versions.tidy(keep=(second,))

    assert {CURRENT, second, "notes.txt"} == {path.name for path in versions.directory.iterdir()}


def test_a_link_can_be_taken_away(versions):
    place(versions)
    versions.point(CURRENT, None)
    versions.point(CURRENT, None)

    assert versions.named(CURRENT) is None


def test_a_failed_write_leaves_what_was_there(versions, monkeypatch):
    name = place(versions, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperatorError, match="No space left"):
        place(versions, b"new")

    assert name == versions.named(CURRENT)
    assert b"old" == versions.read(name, "key.pem")


def test_one_works_there_at_a_time(versions):
    other = Versions(versions.directory).alone()
    with versions.alone(), pytest.raises(OperatorError, match="another agent works there"), other:
        pass
    with Versions(versions.directory).alone():
        place(versions)


def test_what_goes_wrong_meanwhile_is_not_the_directorys(versions):
    with pytest.raises(ConnectionResetError), versions.alone():
        raise ConnectionResetError


# What others may have done


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_where_others_may_write_is_refused(versions, mode):
    versions.directory.mkdir()
    versions.directory.chmod(mode)
    with pytest.raises(OperatorError, match="others may write there") as refused:
        versions.add(FILES)

    assert "chmod 700" in refused.value.next_step


def test_a_directory_below_one_where_everybody_may_write_is_refused(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(OperatorError, match="everybody may write there"):
        Versions(open_to_all / "pairs").add(FILES)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(versions):
    versions.directory.mkdir(mode=0o700)
    os.chown(versions.directory, 65534, 65534)
    with pytest.raises(OperatorError, match="belongs to user 65534"):
        versions.add(FILES)


def test_a_link_in_place_of_the_directory_is_refused(versions, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    versions.directory.symlink_to("elsewhere")
    with pytest.raises(OperatorError, match="a directory is wanted"):
        versions.add(FILES)

    assert [] == list((tmp_path / "elsewhere").iterdir())


def test_a_planted_link_is_not_followed(versions, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    place(versions)
    (versions.directory / CURRENT).unlink()
    (versions.directory / CURRENT).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperatorError, match="no version of ours"):
        versions.named(CURRENT)


def test_a_planted_version_is_not_entered(versions, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    place(versions)
    planted = versions.directory / ".version-0123456789abcdef"
    planted.symlink_to(tmp_path / "elsewhere")
    versions.point(CURRENT, planted.name)
    with pytest.raises(OperatorError, match="no directory of ours"):
        versions.named(CURRENT)
    versions.tidy(keep=())

    assert (tmp_path / "elsewhere").is_dir(), "removed through a link"


def test_a_planted_file_is_not_read(versions, tmp_path):
    (tmp_path / "shadow").write_text("of somebody else")
    name = place(versions)
    (versions.directory / name / "key.pem").unlink()
    (versions.directory / name / "key.pem").symlink_to(tmp_path / "shadow")
    with pytest.raises(OperatorError):
        versions.read(name, "key.pem")
