"""`certvoy kms`: what an operator reads of KEKs, and what rewrapping says at its end."""

import asyncio
import json

import pytest

from sds_server.cli import main as cli
from sds_server.lifecycle import rewrapper
from tests.support.admin import serving
from tests.support.issuances import Issuances


@pytest.fixture
async def run(database, tmp_path, capsys):
    """Run a command as a shell does, beside a server, and return (exit code, stdout, stderr)."""
    file = tmp_path / "certvoy.yaml"
    file.write_text("state_dir: .\n")

    async def run(*words):
        code = await asyncio.to_thread(cli.main, ["kms", *words, "--config", str(file)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    async with serving(database, tmp_path):
        yield run


@pytest.fixture
async def issued(database, tmp_path):
    """Three secrets with a certificate each."""
    issuances = await Issuances.open(database, tmp_path)
    for name in "abc":
        await issuances.issue(await issuances.declare(name, [f"{name}.example.test"]))
    return issuances


async def test_status_lists_each_kek_with_its_keys(run, issued):
    code, out, err = await run("status")

    assert (0, "") == (code, err)
    assert [issued.sealer.kek_uri, "1", "3", "wraps", "now"] == out.splitlines()[1].split()


async def test_rewrap_tells_how_far_it_is_and_how_many_it_were(run, issued, monkeypatch):
    monkeypatch.setattr(rewrapper, "BATCH", 2)
    code, out, err = await run("rewrap", "--all")

    assert 0 == code
    assert "3 keys rewrapped" in out
    assert ["2 rewrapped"] == err.splitlines()


async def test_rewrap_ends_with_1_and_names_what_it_left(run, issued, sql):
    of_a = "SELECT key_id FROM certificate WHERE secret = 'a'"
    key = await sql.fetchval(of_a)
    await sql.execute(f"UPDATE key_material SET dek_wrapped = '\\x00' WHERE id = ({of_a})")
    code, out, err = await run("rewrap", "--all")

    assert 1 == code
    assert "2 keys rewrapped" in out
    assert f"not rewrapped: key {key}: kek: {issued.sealer.kek_uri} did not wrap this DEK" in err
    assert "kms.previous" in err


async def test_rewrap_as_json_says_the_same(run, issued):
    code, out, _ = await run("rewrap", "--all", "--json")

    assert (0, {"rewrapped": 3, "passed_over": 0, "refused": []}) == (code, json.loads(out))


async def test_what_is_behind_is_told_with_what_to_do(run, issued, sql):
    await sql.execute("UPDATE key_material SET kek_uri = 'vault:transit/gone', kek_version = 7")
    code, out, err = await run("status")

    assert 0 == code
    assert "vault:transit/gone" in out
    assert "cannot be opened here: name it in kms.previous" in out
    assert "3 keys are behind: `certvoy kms rewrap`" in err


async def test_check_says_how_many_opened(run, issued):
    code, out, err = await run("check", "--sample", "10")

    assert (0, "3 of 3 keys opened and are their own\n", "") == (code, out, err)


async def test_check_ends_with_1_and_names_what_does_not_open(run, issued, sql):
    of_a = "SELECT key_id FROM certificate WHERE secret = 'a'"
    key = await sql.fetchval(of_a)
    await sql.execute(f"UPDATE key_material SET dek_wrapped = '\\x00' WHERE id = ({of_a})")
    code, out, err = await run("check")

    assert (1, True) == (code, out.startswith("2 of 3 keys"))
    assert str(key) in err
