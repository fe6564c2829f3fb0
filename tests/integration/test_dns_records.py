"""The standing record of an account: printed, and looked for at a real BIND."""

import asyncio
from datetime import UTC, datetime, timedelta

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
        captured = capsys.readouterr()
        run.warned = "warning: the permission ends in" in captured.err
        return code, captured.out.splitlines()

    return run


async def test_a_record_that_was_written_as_printed_is_found_at_every_server(run):
    code, printed = await run(*WORDS)

    assert f"_validation-persist.example.test. IN TXT {TEXT}" == printed[0]
    assert (0, "all servers have it: 1") == (code, printed[-1])


async def test_the_name_at_which_an_account_proves_itself_is_printed(run):
    """draft-ietf-acme-dns-account-label, with its example; whether there is an alias is for `dig`."""
    account = "https://example.com/acme/acct/ExampleAccount"
    _, printed = await run("example.test", "--account", account, "--ca", "ca.example")

    assert "; dns-account-01 looks at _ujmmovf2vn55tgye._acme-challenge.example.test." in printed


@pytest.mark.parametrize(("days", "warned"), [(29, True), (31, False)])
async def test_a_permission_that_ends_soon_is_warned_of(run, days, warned):
    until = datetime.now(UTC) + timedelta(days=days)
    await run(*WORDS, "--until", f"{until:%Y-%m-%d}")

    assert warned is run.warned


async def test_a_record_of_other_words_is_not_ours(run):
    code, printed = await run(*WORDS, "--until", "2999-01-01")

    assert 1 == code
    assert "does not have it, but 1 others" in printed[-1]


async def test_a_record_that_is_not_there_is_said(run):
    code, printed = await run("other.test", *WORDS[1:])

    assert 1 == code
    assert printed[-1].endswith("does not have it")


def test_a_nameserver_that_is_none_is_said_and_no_traceback(capsys):
    code = cli.main(["dns-records", *WORDS, "--check", "--nameserver", "ns1:x"])

    assert 0 != code
    assert "'ns1:x': must be a host with or without a port" in capsys.readouterr().err
