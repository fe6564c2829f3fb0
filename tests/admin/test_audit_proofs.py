"""The audit for verifiers, over the API and by command: exported, verified, proved, also offline."""

import asyncio
import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from sds_server.cli import audit_proofs
from sds_server.cli import main as cli
from sds_server.model import Scope
from tests.support.audits import Replica, tamper, write

SCRIPT = Path(__file__).parents[2] / "examples" / "verify_audit_proof.py"


@pytest.fixture
async def replica(database, tmp_path):
    """A replica that has sealed five entries, with its public key in a file."""
    replica = Replica(database, tmp_path)
    await write(database, "a", "b", "c")
    await replica.step()
    await write(database, "d", "e")
    await replica.step()
    (tmp_path / "audit-key.pub").write_text(f"{replica.signer.public}\n")
    return replica


@pytest.fixture
def run(tmp_path, capsys):
    """Run a command as a shell does, beside the server, and return (exit code, stdout, stderr)."""
    (tmp_path / "certvoy.yaml").write_text("state_dir: .\n")

    async def run(*words, config=True):
        where = ["--config", str(tmp_path / "certvoy.yaml")] if config else []
        capsys.readouterr()  # what the sealer has logged
        code = await asyncio.to_thread(cli.main, ["audit", *map(str, words), *where])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def trusted(replica, tmp_path):
    """What a verifier has got on another way."""
    return ["--public-key", tmp_path / "audit-key.pub", "--checkpoints", replica.path]


async def entry_id(sql, leaf):
    return await sql.fetchval("SELECT event_id FROM auditleaf WHERE leaf_index = $1", leaf)


@pytest.mark.usefixtures("replica")
async def test_leaves_are_listed_with_entries_and_checkpoints_page_by_page(api):
    first = (await api.local("GET", "/v1/audit/leaves?limit=3")).json
    second = (await api.local("GET", f"/v1/audit/leaves?limit=3&cursor={first['next_cursor']}")).json

    assert [0, 1, 2, 3, 4] == [item["leaf"] for item in first["items"] + second["items"]]
    assert [False, False, True] == [item["checkpoint"] is not None for item in first["items"]]
    assert None is second["next_cursor"]
    assert "a" == first["items"][0]["entry"]["subject"]


async def test_what_is_not_sealed_yet_is_listed_apart(api, database, replica):
    await write(database, "f")

    assert ["f"] == [
        item["unsealed"]["subject"] for item in (await api.local("GET", "/v1/audit/unsealed")).json["items"]
    ]
    await replica.step()
    assert [] == (await api.local("GET", "/v1/audit/unsealed")).json["items"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/audit/exports"),
        ("GET", "/v1/audit/leaves"),
        ("GET", "/v1/audit/unsealed"),
        ("GET", "/v1/audit/1/proof"),
    ],
)
async def test_none_of_it_is_for_who_may_not_read(api, method, path):
    assert 403 == (await api.remote(method, path, token=await api.token(Scope.ISSUE))).status
    assert 401 == (await api.remote(method, path)).status


async def test_an_entry_that_is_not_sealed_yet_is_not_proved_and_one_that_is_not_there_is_not_found(
    api, database, sql, replica
):
    await write(database, "f")
    newest = await sql.fetchval("SELECT max(id) FROM certaudit")

    assert 409 == (await api.local("GET", f"/v1/audit/{newest}/proof")).status
    assert 404 == (await api.local("GET", f"/v1/audit/{newest + 1}/proof")).status
    assert 404 == (await api.local("GET", "/v1/audit/x/proof")).status
    await replica.step()
    assert 200 == (await api.local("GET", f"/v1/audit/{newest}/proof")).status


@pytest.mark.usefixtures("api")
async def test_the_audit_is_verified_beside_the_server(run, trusted):
    code, shown, error = await run("verify", *trusted)

    assert (0, "") == (code, error)
    assert "5 entries are as they were sealed, under 2 checkpoints" in shown


@pytest.mark.usefixtures("api")
async def test_without_checkpoints_it_says_what_it_cannot_know(run, trusted):
    code, _, error = await run("verify", *trusted[:2])

    assert 0 == code
    assert "the database's word alone" in error


@pytest.mark.usefixtures("api")
async def test_an_edited_entry_is_named_and_the_exit_code_is_1(run, trusted, sql):
    await tamper(sql, f"UPDATE certaudit SET actor = 'x' WHERE id = {await entry_id(sql, 3)}")

    code, shown, error = await run("verify", *trusted)
    as_json = await run("verify", "--json", *trusted)

    assert (1, "") == (code, shown)
    assert "leaf 3: entry" in error
    assert "the first bad leaf is 3" in error
    assert 3 == json.loads(as_json[1])["findings"][0]["leaf"]


@pytest.mark.usefixtures("api")
async def test_an_export_is_verified_without_a_server_and_is_audited(run, trusted, sql, tmp_path, database):
    file = tmp_path / "elsewhere" / "audit.jsonl"
    file.parent.mkdir()
    await write(database, "not sealed")

    exported = await run("export", file)
    verified = await run("verify", *trusted, "--export", file, config=False)

    assert (0, "") == exported[:2]
    assert 0 == verified[0], verified
    assert "5 entries are as they were sealed" in verified[1]
    assert "2 not sealed yet" in verified[1]
    assert 1 == await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = 'audit.exported'")


async def exported(run, tmp_path):
    return (await exported_at(run, tmp_path))[0]


async def exported_at(run, tmp_path):
    """The file, and when that was, by what the command says."""
    file = tmp_path / "audit.jsonl"
    code, _, said = await run("export", file)
    assert 0 == code, said
    return file, said.partition("--as-of ")[2].split("`")[0]


@pytest.mark.usefixtures("api")
async def test_an_export_that_was_cut_or_edited_is_found_out(run, trusted, tmp_path):
    file = await exported(run, tmp_path)
    lines = file.read_text().splitlines(keepends=True)

    for name, wrong, first in (
        ("cut", lines[:4], 3),
        ("edited", [line.replace("person:alice", "person:bob") for line in lines], 0),
        ("without one", lines[:2] + lines[3:], 1),
    ):
        file.write_text("".join(wrong))
        code, _, error = await run("verify", *trusted, "--export", file, config=False)
        assert 1 == code, name
        assert f"the first bad leaf is {first}" in error, name


@pytest.mark.usefixtures("api")
async def test_checkpoints_from_after_an_export_say_nothing_against_it(
    run, trusted, tmp_path, database, replica
):
    file, at = await exported_at(run, tmp_path)
    replica.sealer._clock.turn(timedelta(hours=1))
    await write(database, "later")
    await replica.step()

    assert 0 == (await run("verify", *trusted, "--export", file, "--as-of", at, config=False))[0]
    code, _, error = await run("verify", *trusted, "--export", file, config=False)
    assert 1 == code
    assert "say with --as-of" in error
    for none in ("yesterday", "2026-01-01", "2026-01-01T00:00:00"):
        assert 2 == (await run("verify", *trusted, "--export", file, "--as-of", none, config=False))[0]


@pytest.mark.usefixtures("api")
async def test_an_export_that_was_cut_does_not_say_itself_from_when_it_is(run, trusted, tmp_path):
    """Whoever cuts it can write any time into it: a checkpoint of later would say nothing against it."""
    file = await exported(run, tmp_path)
    first, *leaves = file.read_text().splitlines()
    head = json.loads(first) | {"at": "1970-01-01T00:00:00+00:00", "leaves": 3}
    file.write_text("\n".join([json.dumps(head), *leaves[:3]]) + "\n")

    code, _, error = await run("verify", *trusted, "--export", file, config=False)

    assert 1 == code
    assert "the first bad leaf is 3" in error


HOSTILE = {
    "deep": b'{"leaf": 0, "entry": ' + b"[" * 100_000,
    "deep but whole": b'{"unsealed": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "not UTF-8": b'{"leaf": "\xff"}',
    "cut off": b'{"leaf": 0, "hash": "00',
    "long": b'{"leaf": "' + b"x" * (2 * audit_proofs.LINE_BYTES_MAX),
    "endless number": b'{"leaf": 1e400, "hash": "", "entry": null, "checkpoint": null}',
    "NaN": b'{"leaf": NaN, "hash": "", "entry": null, "checkpoint": null}',
    "2^63": b'{"leaf": 9223372036854775808, "hash": "", "entry": null, "checkpoint": null}',
    "entry of no kind": b'{"leaf": 0, "hash": "", "entry": [1], "checkpoint": null}',
    "checkpoint of no kind": b'{"leaf": 0, "hash": "", "entry": null, "checkpoint": 5}',
    "unsealed of no kind": b'{"unsealed": [1]}',
    "digits without end": b'{"unsealed": {"cluster": "1", "xid": "' + b"9" * 5000 + b'", "id": "1"}}',
    "escape": b'{"leaf": 0, "hash": "", "entry": {"id": "\\u001b]0;owned\\u0007", "cluster": "1",'
    b' "xid": "1"}, "checkpoint": null}',
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
async def test_what_somebody_hands_over_is_refused_in_one_sentence(run, trusted, tmp_path, hostile):
    file = tmp_path / "file"
    for option, first in (
        ("--export", b'{"format": "certvoy-audit-1", "at": "2026-11-27T00:00:00+00:00"}\n'),
        ("--proof", b""),
    ):
        file.write_bytes(first + hostile + b"\n")
        code, shown, error = await run("verify", *trusted, option, file, config=False)
        assert (1, "") == (code, shown)
        assert error.isprintable() or set(error) - {"\n"} == {c for c in error if c.isprintable()}
        assert len(error) < 2000


async def test_an_entry_is_proved_to_who_has_a_public_key_and_nothing_else(api, run, trusted, sql, tmp_path):
    _, proof, _ = await run("prove", await entry_id(sql, 1))
    file = tmp_path / "proof.json"
    file.write_text(proof)

    code, shown, error = await run("verify", *trusted[:2], "--proof", file, config=False)
    assert (0, "") == (code, error)
    assert '"subject": "b"' in shown

    file.write_text(proof.replace("person:alice", "person:bob"))
    code, _, error = await run("verify", *trusted[:2], "--proof", file, config=False)
    assert 1 == code
    assert "does not lead from entry" in error


@pytest.mark.usefixtures("api")
async def test_a_page_of_python_checks_a_proof_without_certvoy(run, trusted, sql, tmp_path):
    """The standard library and `cryptography`: it is copied away from here, and imports nothing of ours."""
    script = shutil.copy(SCRIPT, tmp_path / "check.py")
    _, proof, _ = await run("prove", await entry_id(sql, 4))

    async def check(text):
        (tmp_path / "proof.json").write_text(text)
        words = [sys.executable, "-I", str(script), str(tmp_path / "proof.json"), str(trusted[1])]
        return await asyncio.to_thread(
            subprocess.run, words, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    good = await check(proof)
    assert 0 == good.returncode, good.stderr
    assert '"subject": "e"' in good.stdout
    head = json.loads(proof)["checkpoint"]
    for wrong in (
        proof.replace("person:alice", "person:bob"),
        proof.replace('"leaf": 4', '"leaf": 3'),
        proof.replace(json.dumps(head)[1:20], json.dumps(head)[1:20].replace("certvoy", "certvox")),
    ):
        assert wrong != proof
        assert 0 != (await check(wrong)).returncode
    assert len(SCRIPT.read_text().splitlines()) <= 60


@pytest.mark.parametrize("content", ["", "x", "[]", '{"format": "another"}'])
async def test_what_is_no_export_and_no_proof_is_said_to_be_none(run, trusted, tmp_path, content):
    file = tmp_path / "file"
    file.write_text(content)

    for option in ("--export", "--proof"):
        code, shown, error = await run("verify", *trusted, option, file, config=False)
        assert (1, "") == (code, shown)
        assert "certvoy: " in error
        assert "crashed" not in error


async def test_a_file_that_is_no_public_key_is_named_and_not_shown(run, trusted, tmp_path):
    """Beside it lie the signing key and the KEK: who mistakes one for it has it on no screen."""
    kek = tmp_path / "kek"
    kek.write_text("c2VjcmV0LXNlY3JldC1zZWNyZXQ=\n")

    code, shown, error = await run("verify", "--public-key", kek, "--proof", trusted[1], config=False)
    assert (2, "") == (code, shown)
    assert f"--public-key {kek}: it is no verifier key" in error
    assert "c2VjcmV0" not in error


async def test_files_that_are_not_there_are_named(run, trusted, tmp_path):
    code, _, error = await run(
        "verify", "--public-key", tmp_path / "no.pub", "--proof", trusted[1], config=False
    )
    assert 2 == code
    assert "no.pub" in error

    code, _, error = await run(
        "verify", *trusted[:2], "--checkpoints", tmp_path / "no.jsonl", "--export", trusted[1], config=False
    )
    assert 0 != code
