"""The commands beside a running server: what an operator reads, and what they can do next."""

import asyncio
from datetime import timedelta

import pytest

from sds_server.cli import main as cli
from sds_server.inventory import deliveries, progress, roll_outs, rotations, targets
from sds_server.inventory.deliveries import News
from sds_server.model import Identity
from tests.support.issuances import Issuances

CONFIGURATION = """\
database: "{dsn}"
issuers: {{internal: {{directory: https://ca.example.test/dir}}}}
http01: {{listen: "127.0.0.1:0"}}
sds: {{listen: "127.0.0.1:0", certificate: pem, key: pem, client_ca: pem}}
"""

TOLD = {
    "what": "it is invalid: www.example.test: NXDOMAIN (dns)",
    "hint": "make the name resolve for the CA",
    "actor": "owner",
    "problems": [{"type": "urn:ietf:params:acme:error:dns", "detail": "NXDOMAIN", "subproblems": []}],
}


@pytest.fixture
def dsn(connect):
    if "dsn" in connect:
        return connect["dsn"].rpartition("/")[0] + "/" + connect["database"]
    user = f"{connect['user']}:{connect['password']}@" if "password" in connect else f"{connect['user']}@"
    host = connect["host"]
    where = f"/{connect['database']}?host={host}" if host.startswith("/") else f"{host}/{connect['database']}"
    return f"postgresql://{user}{where}" + (f"&port={connect['port']}" if "port" in connect else "")


@pytest.fixture
def file(tmp_path, dsn):
    (tmp_path / "pem").write_text("something")
    path = tmp_path / "certvoy.yaml"
    path.write_text(CONFIGURATION.format(dsn=dsn))
    return path


@pytest.fixture
def run(database, file, capsys):
    """Run a command as a shell does, and return (exit code, stdout, stderr)."""

    async def run(*words):
        # In a thread: a command brings its own event loop.
        code = await asyncio.to_thread(cli.main, [*words, "--config", str(file)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
async def issuances(database, tmp_path):
    return await Issuances.open(database, tmp_path)


async def register(database, name="edge-1", serves=("www",)):
    return await targets.register(
        database, name, probe="127.0.0.1:1", identity=None, node_id=None, serves=serves, actor="p"
    )


async def test_a_target_that_was_added_is_listed(run, issuances):
    await issuances.declare()
    added = await run("targets", "add", "edge-1", "--probe", "127.0.0.1:8443", "--secret", "www")
    listed = await run("targets", "ls")

    assert (0, "target edge-1 is probed at 127.0.0.1:8443\n", "") == added
    assert (0, "edge-1  registered  probe 127.0.0.1:8443  -  never seen\n", "") == listed


async def test_a_target_that_was_seen_is_listed_with_who_it_is_and_when(run, issuances, database):
    await issuances.declare()
    fields = dict.fromkeys(("sent", "refused", "refusal", "refused_version"))
    peer = Identity("spiffe://example.test/edge")
    news = News(
        identity=peer, node_id="edge-1", secret="www", accepted=1, seen_for=timedelta(minutes=1), **fields
    )
    await deliveries.write(database, [news], actor="r")
    _, shown, _ = await run("targets", "ls")

    assert shown.startswith(f"edge-1  seen  probe -  {peer}  last seen 20")


async def test_a_target_that_was_removed_is_gone(run, issuances, database):
    await issuances.declare()
    await register(database)
    removed = await run("targets", "rm", "edge-1")

    assert (0, "target edge-1 is forgotten\n", "") == removed
    assert (0, "", "") == await run("targets", "ls")


async def test_a_bad_probe_address_is_refused_with_an_example(run, database):
    code, shown, error = await run("targets", "add", "edge-1", "--probe", "edge-1")

    assert (1, "") == (code, shown)
    assert (
        'certvoy: probe address: must be host:port, got "edge-1"\nhint: write edge-1.example.com:443' in error
    )
    assert [] == list(await targets.page(database, after="", limit=10))


async def test_a_target_of_a_secret_that_does_not_exist_is_not_added(run, database):
    code, _, error = await run("targets", "add", "edge-1", "--probe", "h:1", "--secret", "nobody")

    assert 1 == code
    assert error.startswith("certvoy: secret nobody: there is none of that name\nhint: ")
    assert [] == list(await targets.page(database, after="", limit=10))


async def test_a_target_without_a_name_is_refused(run):
    code, _, error = await run("targets", "add", "", "--probe", "h:1")

    assert 1 == code
    assert error.startswith("certvoy: target: must have a name of 1 to 1,024 bytes")


async def test_removing_what_is_not_there_says_where_to_look(run):
    code, _, error = await run("targets", "rm", "nobody")

    assert 1 == code
    assert "hint: `certvoy targets ls` lists them" in error


@pytest.mark.parametrize("command", ["why", "rotate"])
async def test_an_unknown_secret_is_said_with_a_hint(run, command):
    code, shown, error = await run(command, "nobody")

    assert (1, "") == (code, shown)
    assert error.startswith("certvoy: secret nobody: there is none of that name\nhint: ")


async def test_a_rotation_is_opened_by_whoever_asked(run, issuances, database, sql):
    await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    await roll_outs.confirm(database, roll_out, proved=[], actor="r", unobserved=True)
    code, shown, _ = await run("rotate", "www")
    rotation = await progress.latest(database, "www")
    actor = await sql.fetchval(
        "SELECT actor FROM certaudit WHERE action = 'rotation.opened' ORDER BY id DESC LIMIT 1"
    )

    assert 0 == code
    assert f"rotation {rotation.id} of www is open; `certvoy why www` says how it goes\n" == shown
    assert "operator" == rotation.reason
    assert actor.startswith("person:")


async def test_why_nothing_is_issued_yet_tells_the_cas_words_the_remedy_and_the_next_try(
    run, issuances, database
):
    await issuances.declare()
    claim = await issuances.claim()
    await rotations.fail(
        database, claim.lease, error=TOLD, pause=timedelta(hours=1), abandon_order=True, actor="r"
    )
    rotation = await progress.latest(database, "www")
    code, shown, _ = await run("why", "www")

    assert 0 == code
    assert [
        "www: www.example.test from internal (ecdsa-p256)",
        "├─ certificate: none yet",
        f"├─ rotation {rotation.id}: initial, waiting for a certificate, 1 attempt",
        "│  ├─ reason: it is invalid: www.example.test: NXDOMAIN (dns)",
        "│  │  └─ the CA said: urn:ietf:params:acme:error:dns: NXDOMAIN",
        "│  ├─ remedy: make the name resolve for the CA",
        f"│  └─ next try: {rotation.next_attempt_at:%FT%TZ}",
    ] == shown.splitlines()[:-1]
    assert shown.splitlines()[-1].startswith("└─ targets: none ")


async def test_why_it_is_still_rolling_out_names_the_target_and_its_reason(run, issuances, database):
    await issuances.declare()
    one, two = await register(database), await register(database, "edge-2")
    certificate = await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    await roll_outs.confirm(database, roll_out, proved=[one], actor="r")
    await deliveries.note_probe_error(database, two, "www", "127.0.0.1:1: Connection refused")
    _, shown, _ = await run("why", "www")

    assert [
        "├─ target edge-1: proved 1",
        "├─ target edge-2: nothing yet",
        "│  └─ not proved: 127.0.0.1:1: Connection refused",
    ] == shown.splitlines()[-3:]
    assert "├─ certificate: generation 1, active" in shown
    assert certificate.fingerprint in shown
    assert "initial, rolling out, 1 attempt" in shown
    assert "next try" not in shown


async def test_why_a_target_refused_is_told(run, issuances, database):
    await issuances.issue(await issuances.declare())
    fields = dict.fromkeys(("sent", "accepted"))
    news = News(
        identity=Identity("spiffe://example.test/edge"),
        node_id="edge-1",
        secret="www",
        refused=1,
        refusal="KEY_VALUES_MISMATCH",
        refused_version="v1",
        seen_for=timedelta(minutes=1),
        **fields,
    )
    await deliveries.write(database, [news], actor="r")
    _, shown, _ = await run("why", "www")

    assert "├─ target edge-1: refused 1\n│  ├─ refused: KEY_VALUES_MISMATCH\n" in shown


async def test_why_it_is_complete(run, issuances, database):
    await issuances.declare()
    target = await register(database)
    await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    await roll_outs.confirm(database, roll_out, proved=[target], actor="r")
    _, shown, _ = await run("why", "www")

    assert "initial, completed, 1 attempt" in shown
    assert "not proved" not in shown


async def test_an_old_schema_is_named_with_the_remedy(run, sql):
    await sql.execute("DELETE FROM schema_migration")
    code, shown, error = await run("targets", "ls")

    assert (1, "") == (code, shown)
    assert "certvoy: database: its schema is old, 0001_initial" in error
    assert "hint: start `certvoy serve` of this release: it migrates" in error


async def test_a_database_without_tables_is_named_with_the_remedy(connect, file, capsys):
    code = await asyncio.to_thread(cli.main, ["why", "www", "--config", str(file)])

    assert 1 == code
    assert capsys.readouterr().err == (
        "certvoy: database: certvoy's tables are not there\nhint: start `certvoy serve` once\n"
    )


async def test_a_database_that_is_not_there_is_said(file, capsys, tmp_path):
    file.write_text(CONFIGURATION.format(dsn=f"postgresql://nobody@/none?host={tmp_path}"))
    code = await asyncio.to_thread(cli.main, ["why", "www", "--config", str(file)])

    assert 1 == code
    assert "hint: start PostgreSQL, or correct `database:`" in capsys.readouterr().err
