"""The file of a local KEK: made once, refused when it is not what we wrote."""

import os

import pytest

from sds_server.errors import CustodyError
from sds_server.keys.local import LocalKms


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "kek"


def refusal(path, **arguments):
    with pytest.raises(CustodyError) as refused:
        LocalKms(path, **arguments)
    assert str(path) in refused.value.message
    return f"{refused.value.message}\n{refused.value.next_step}"


def test_first_use_makes_a_file_for_the_owner_only(path):
    LocalKms(path, create=True)

    assert [entry.stat().st_mode & 0o777 for entry in (path, path.parent)] == [0o600, 0o700]
    assert [path] == list(path.parent.iterdir())


def test_file_says_what_it_is(path):
    LocalKms(path, create=True)

    assert path.read_text().startswith("# certvoy's local KEK")


def test_second_use_has_the_same_kek(path):
    assert LocalKms(path, create=True).kek_uri == LocalKms(path, create=True).kek_uri


def test_two_files_have_two_names(path, tmp_path):
    assert LocalKms(path, create=True).kek_uri != LocalKms(tmp_path / "other", create=True).kek_uri


def test_it_says_that_it_is_insecure(path):
    assert LocalKms(path, create=True).insecure


def test_missing_file_is_refused_unless_it_may_be_made(path):
    assert "No such file" in refusal(path)


def test_a_credential_of_systemd_may_show_the_mask_of_its_acl(path, monkeypatch):
    made = LocalKms(path, create=True).kek_uri
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))

    assert made == LocalKms(path).kek_uri


@pytest.mark.parametrize("mode", [0o444, 0o460])
def test_a_credential_that_others_may_read_or_a_group_write_is_refused(path, mode, monkeypatch):
    LocalKms(path, create=True)
    path.chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))

    assert "is wider" in refusal(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o700])
def test_wider_mode_is_refused(path, mode):
    LocalKms(path, create=True)
    path.chmod(mode)

    assert f"chmod 600 {path}" in refusal(path)


def test_owner_may_take_the_right_to_write_away(path):
    LocalKms(path, create=True)
    path.chmod(0o400)

    LocalKms(path)


def test_symlink_is_refused(path, tmp_path):
    LocalKms(path, create=True)
    (tmp_path / "link").symlink_to(path)

    assert "is a symlink" in refusal(tmp_path / "link", create=True)


def test_dangling_symlink_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    assert "is a symlink" in refusal(tmp_path / "link", create=True)


def test_named_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "kek", 0o600)

    assert "not a regular file" in refusal(tmp_path / "kek")


def test_directory_is_refused(tmp_path):
    assert "not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "c2hvcnQ=\n", "no base64!\n", "A" * 88 + "\n"])
def test_other_content_is_refused(path, text):
    LocalKms(path, create=True)
    path.write_text(text)

    assert "32 bytes" in refusal(path)


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()

    assert "kms.key_file" in refusal(tmp_path / "file" / "kek", create=True)
