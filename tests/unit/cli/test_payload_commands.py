"""Commands for what is no certificate: what an operator reads, and never what is secret."""

import asyncio
import json

import pytest

from sds_server.cli import main as cli
from sds_server.payloads.trust import fingerprint_of
from tests.support.admin import serving
from tests.support.pki import authority

OLD, NEW = authority("Old root"), authority("New root")


@pytest.fixture
async def run(database, tmp_path, capsys):
    """Run a command as a shell does, beside a server, and return (exit code, stdout, stderr)."""
    file = tmp_path / "certvoy.yaml"
    file.write_text("state_dir: .\n")

    async def run(*words):
        code = await asyncio.to_thread(cli.main, [*words, "--config", str(file)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    async with serving(database, tmp_path):
        yield run


@pytest.fixture
def roots(tmp_path):
    return str(OLD.write(tmp_path / "old.pem")), str(NEW.write(tmp_path / "new.pem"))


async def test_a_bundle_is_put_listed_explained_and_printed(run, roots):
    _, put, _ = await run("trust", "put", "clients", roots[0], "--san", "uri:prefix:spiffe://mesh/")
    _, listed, _ = await run("ls")
    _, shown, _ = await run("show", "clients")
    _, why, _ = await run("why", "clients")
    _, pem, _ = await run("trust", "show", "clients")

    assert "clients is a validation_context, generation 1, which goes out; `certvoy why clients`" in put
    (row,) = [line.split() for line in listed.splitlines() if line.startswith("clients")]
    assert ["clients", "generation", "1"] == row[:3]
    assert ["0/0", "accepted", "validation_context"] == [row[-4], row[-3], row[-1]]
    assert "CN=Old root" in shown
    assert "uri prefix spiffe://mesh/" in shown
    assert "generation 1: put, rolling out" in why
    assert "targets: none was seen subscribing" in why
    assert OLD.pem.decode() in pem
    assert f"# SHA-256 {fingerprint_of(OLD.certificate)}" in pem


async def test_a_root_that_is_needed_is_removed_only_with_a_reason(run, roots):
    fingerprint = fingerprint_of(OLD.certificate)
    await run("trust", "put", "clients", roots[0])
    await run("trust", "add", "clients", roots[1])
    early = await run("trust", "remove", "clients", fingerprint)
    unreasoned = await run("trust", "remove", "clients", fingerprint, "--force")
    forced = await run("trust", "remove", "clients", fingerprint, "--force", "--reason", "its key is lost")
    _, shown, _ = await run("trust", "show", "clients", "--json")
    _, audit, _ = await run("audit", "ls", "--subject", "clients", "--json")

    assert (1, True) == (early[0], "its roll-out has not ended" in early[2])
    assert (1, True) == (unreasoned[0], "--reason TEXT" in unreasoned[2])
    assert 0 == forced[0]
    assert NEW.pem.decode() == json.loads(shown)["pem"]
    assert "its key is lost" in audit


async def test_waiting_for_who_does_not_take_it_times_out(run, roots):
    code, _, error = await run("trust", "put", "clients", roots[0], "--wait", "--timeout", "1s")

    assert (5, True) == (code, "not with every target within 1 s" in error)


async def test_what_is_secret_is_never_printed(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"hush-hush")
    key = tmp_path / "key"
    key.write_bytes(b"k" * 80)
    said = [
        await run("generic", "token", "--file", str(secret)),
        await run("generic", "token", "--value", f"id={secret}"),
        await run("tickets", "keys", "--ticket-key", str(key)),
        await run("tickets", "keys", "--rotate-every", "12h"),
        await run("tickets", "keys", "--now"),
        *[
            await run(word, name, *more)
            for word in ("show", "why")
            for name in ("token", "keys")
            for more in ((), ("--json",))
        ],
    ]

    assert {0} == {code for code, _, _ in said}
    assert not any(
        word in out + error for _, out, error in said for word in ("hush", "aHVzaC", "kkkk", "a2tr")
    )
    assert "12:00:00, 3 kept" in said[7][1]
    assert "the next version of keys is being made" in said[4][1], "not that the one before is with everybody"


@pytest.mark.parametrize(
    "words",
    [
        ("tickets", "keys"),
        ("tickets", "keys", "--now", "--rotate-every", "12h"),
        ("generic", "token"),
        ("generic", "token", "--value", "id"),
        ("trust", "put", "clients", "no-such-file.pem"),
        ("trust", "remove", "nobody", "00"),
    ],
)
async def test_half_a_command_says_what_is_missing(run, words):
    code, _, error = await run(*words)

    assert code in {1, 2, 3}
    assert "hint: " in error or "Usage" in error


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("generic", "token", "--file", "gone"), "name a file that exists"),
        (("tickets", "keys", "--ticket-key", "gone"), "name a file that exists"),
        (("trust", "put", "clients", "gone"), "name a PEM file"),
    ],
)
async def test_a_file_that_is_not_there_is_asked_for_as_what_it_is(run, words, hint):
    assert (1, "", f"certvoy: cannot read gone: No such file or directory\nhint: {hint}\n") == await run(
        *words
    )


@pytest.mark.parametrize("command", ["migrate", "responder --http01 127.0.0.1:0"])
def test_a_file_for_the_databases_url_is_asked_for_as_what_it_is(command, tmp_path, capsys):
    missing = tmp_path / "gone"

    assert 2 == cli.main([*command.split(), "--database-file", str(missing)])
    said, hint = capsys.readouterr().err.splitlines()[-2:]
    assert f"cannot read {missing}: No such file or directory" == said
    assert "hint: name a file that holds postgresql://user@host/database and nothing else" == hint


async def test_a_bundle_that_goes_out_is_taken_back_by_hand(run, roots):
    await run("trust", "put", "clients", roots[0])
    first = await run("rollback", "clients")
    await run("trust", "add", "clients", roots[1])
    _, taken_back, _ = await run("rollback", "clients")
    again = await run("rollback", "clients")
    _, why, _ = await run("why", "clients")

    assert (1, "certvoy: secret clients: it is the first version") == (first[0], first[2].splitlines()[0])
    assert "took generation 2 back; `certvoy why clients` says what comes next\n" in taken_back
    assert (1, "certvoy: secret clients: nothing is being rolled out") == (again[0], again[2].splitlines()[0])
    assert "generation 2: add, rejected" in why


async def test_why_says_that_canaries_are_asked_first(run, roots, database):
    await run("trust", "put", "clients", roots[0])
    async with database.transaction() as tx:
        await tx.rows("payload_to_canaries", "clients", 1)
    _, why, _ = await run("why", "clients")
    _, shown, _ = await run("show", "clients", "--json")

    assert "generation 1: put, rolling out, canaries first" in why
    assert "canary" == json.loads(shown)["payload"]["versions"][0]["stage"]
