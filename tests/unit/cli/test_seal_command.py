"""`certvoy seal` and `unseal`: what an operator reads."""

import asyncio
import json

import pytest

from sds_server.cli import main as cli
from tests.support.admin import serving


@pytest.fixture
async def run(database, tmp_path, capsys):
    """Run a command as a shell does, beside a server, and return (exit code, stdout)."""
    file = tmp_path / "certvoy.yaml"
    file.write_text("state_dir: .\n")

    async def run(*words):
        code = await asyncio.to_thread(cli.main, [*words, "--config", str(file)])
        return code, capsys.readouterr().out

    async with serving(database, tmp_path):
        yield run


async def test_a_seal_says_who_put_it_when_why_and_how_it_ends(run):
    code, said = await run("seal", "--reason", "a thief")
    again, whole = await run("seal", "--reason", "another", "--json")
    unsealed, gone = await run("unseal")

    assert (0, 0, 0) == (code, again, unsealed)
    assert "sealed by person:" in said
    assert said.endswith(": a thief; `certvoy unseal` ends it\n")
    assert "a thief" == json.loads(whole)["reason"]
    assert "not sealed" in gone
