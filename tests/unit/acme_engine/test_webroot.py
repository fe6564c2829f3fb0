"""Tokens as files below a web server's root."""

import os
from pathlib import Path

import pytest

from acme_engine.errors import BadReply, Misconfigured
from acme_engine.webroot import Webroot

TOKEN = "t" * 43


@pytest.mark.parametrize("spelled", [Path, str])
async def test_a_token_is_a_file_that_others_can_read_and_goes_again(tmp_path, spelled):
    before = os.umask(0o077)
    try:
        store = Webroot(spelled(tmp_path))
        await store.put(TOKEN, f"{TOKEN}.thumbprint", ttl_s=60)
    finally:
        os.umask(before)
    file = tmp_path / ".well-known" / "acme-challenge" / TOKEN

    assert f"{TOKEN}.thumbprint" == file.read_text() == await store.get(TOKEN)
    assert 0o644 == file.stat().st_mode & 0o777
    assert 0o755 == file.parent.stat().st_mode & 0o777 == file.parent.parent.stat().st_mode & 0o777
    assert [file] == [*file.parent.iterdir()]
    await store.delete(TOKEN)
    await store.delete(TOKEN)
    assert await store.get(TOKEN) is None


async def test_the_same_token_again_is_written_anew(tmp_path):
    store = Webroot(tmp_path)
    await store.put(TOKEN, "one", ttl_s=60)
    await store.put(TOKEN, "two", ttl_s=60)

    assert "two" == await store.get(TOKEN)


@pytest.mark.parametrize("token", ["../../../../etc/passwd", "a/b" * 20, "", "." * 30])
async def test_no_token_leads_out_of_the_directory(tmp_path, token):
    for call in (Webroot(tmp_path).put(token, "x", ttl_s=60), Webroot(tmp_path).delete(token)):
        with pytest.raises(BadReply):
            await call

    assert [] == [*tmp_path.iterdir()]


async def test_a_planted_link_is_not_written_through(tmp_path):
    directory = tmp_path / ".well-known" / "acme-challenge"
    directory.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (directory / f".{TOKEN}.partial").symlink_to(victim)
    (directory / TOKEN).symlink_to(victim)
    await Webroot(tmp_path).put(TOKEN, "x", ttl_s=60)

    assert "kept" == victim.read_text()
    assert not (directory / TOKEN).is_symlink()


async def test_no_reader_ever_sees_a_part_of_it(tmp_path, monkeypatch):
    """It has its name once it is whole: a CA that comes early finds nothing, and asks again."""
    file, seen = tmp_path / ".well-known" / "acme-challenge" / TOKEN, []

    def fchmod(fd, mode, *, chmod=os.fchmod):  # between opening the file and writing it
        seen.append(file.exists())
        chmod(fd, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    await Webroot(tmp_path).put(TOKEN, "x", ttl_s=60)

    assert ([False], "x") == (seen, file.read_text())


async def test_a_root_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / ".well-known").write_text("a file")
    with pytest.raises(Misconfigured, match="a token cannot be written there") as failure:
        await Webroot(tmp_path).put(TOKEN, "x", ttl_s=60)

    assert "let the user that certvoy runs as write" in failure.value.hint
