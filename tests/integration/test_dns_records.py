"""The standing record of an account: printed, and looked for at a real BIND."""

import asyncio

import pytest

from sds_server.cli import main as cli
from tests.support.bind import Bind, Zone

pytestmark = pytest.mark.debian

WORDS = ["*.example.test", "--account", "https://ca.example/acct/1", "--ca", "ca.example"]
TEXT = '"ca.example; accounturi=https://ca.example/acct/1; policy=wildcard"'


@pytest.fixture
async def bind(tmp_path):
    running = await Bind.start(
        tmp_path / "bind", [Zone("example.test", [f"_validation-persist TXT {TEXT}"]), Zone("other.test")]
    )
    yield running
    await running.stop()


@pytest.fixture
def run(bind, capsys):
    async def run(*words):
        arguments = ["dns-records", *words, "--check", "--nameserver", bind.address]
        code = await asyncio.to_thread(cli.main, arguments)
        return code, capsys.readouterr().out.splitlines()

    return run


async def test_a_record_that_was_written_as_printed_is_found_at_every_server(run):
    code, printed = await run(*WORDS)

    assert f"_validation-persist.example.test. IN TXT {TEXT}" == printed[0]
    assert (0, "all servers have it: 1") == (code, printed[-1])


async def test_a_record_of_other_words_is_not_ours(run):
    code, printed = await run(*WORDS, "--until", "2999-01-01")

    assert 1 == code
    assert "does not have it, but 1 others" in printed[-1]


async def test_a_record_that_is_not_there_is_said(run):
    code, printed = await run("other.test", *WORDS[1:])

    assert 1 == code
    assert printed[-1].endswith("does not have it")
