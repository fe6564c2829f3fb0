"""The commands beside a running server: what an operator reads, and what they can do next."""

import asyncio
import json
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from sds_server.cli import api
from sds_server.cli import main as cli
from sds_server.errors import CertvoyError, NotFound, Unavailable
from sds_server.inventory import (
    declarations,
    deliveries,
    freezes,
    pauses,
    progress,
    proxies,
    revocations,
    roll_outs,
    rotations,
    targets,
)
from sds_server.inventory.deliveries import News
from sds_server.model import Identity, Kind, Scope
from tests.support.admin import serving
from tests.support.fakes import Listener, pair_of
from tests.support.issuances import Issuances
from tests.support.pki import authority
from tests.support.quic_server import QuicListener
from tests.support.roll_outs import confirm, note, rolling_out

TOLD = {
    "what": "it is invalid: www.example.test: NXDOMAIN (dns)",
    "hint": "make the name resolve for the CA",
    "actor": "owner",
    "problems": [{"type": "urn:ietf:params:acme:error:dns", "detail": "NXDOMAIN", "subproblems": []}],
}


@pytest.fixture
async def run(database, tmp_path, capsys):
    """Run a command as a shell does, beside a server, and return (exit code, stdout, stderr)."""
    file = tmp_path / "certvoy.yaml"
    file.write_text("state_dir: .\n")

    async def run(*words):
        # In a thread: a command waits for the server, which is in this loop.
        code = await asyncio.to_thread(cli.main, [*words, "--config", str(file)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    async with serving(database, tmp_path):
        yield run


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
    assert (0, "") == (listed[0], listed[2])
    heading, row = listed[1].splitlines()
    assert ["TARGET", "KIND", "ORIGIN", "PROBE", "PUSH", "SEEN", "SECRETS", "IDENTITY"] == heading.split()
    assert ["edge-1", "envoy", "registered", "127.0.0.1:8443", "-", "never", "1", "-"] == row.split()


async def test_a_target_that_was_seen_is_listed_with_who_it_is_and_when(run, issuances, database):
    await issuances.declare()
    fields = dict.fromkeys(("sent", "refused", "refusal", "refused_version"))
    peer = Identity("spiffe://example.test/edge")
    news = News(
        identity=peer, node_id="edge-1", secret="www", accepted=1, seen_for=timedelta(minutes=1), **fields
    )
    await deliveries.write(database, [news], actor="r")
    _, shown, _ = await run("targets", "ls")

    assert ["edge-1", "envoy", "seen", "-", "-", "0", "s", "ago", "1", peer] == shown.splitlines()[1].split()


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

    assert 3 == code
    assert error.startswith("certvoy: secret nobody: there is none of that name\nhint: ")
    assert [] == list(await targets.page(database, after="", limit=10))


async def test_a_target_with_an_endless_name_is_refused(run):
    code, _, error = await run("targets", "add", "x" * 1025, "--probe", "h:1")

    assert 1 == code
    assert error.startswith("certvoy: target: must have a name of 1 to 1,024 bytes")


async def test_removing_what_is_not_there_says_where_to_look(run):
    code, _, error = await run("targets", "rm", "nobody")

    assert 3 == code
    assert "hint: `certvoy targets ls` lists them" in error


@pytest.mark.parametrize("command", ["why", "rotate"])
async def test_an_unknown_secret_is_said_with_a_hint(run, command):
    code, shown, error = await run(command, "nobody")

    assert (3, "") == (code, shown)
    assert error.startswith("certvoy: secret nobody: there is none of that name\nhint: ")


async def test_a_rotation_is_opened_by_whoever_asked(run, issuances, database, sql):
    await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    await confirm(database, roll_out, proved=[], actor="r", unobserved=True)
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
        "├─ ✗ ready: no certificate is issued yet",
        "├─ ✗ served: no proxy was seen subscribing, and none is registered for it",
        "├─ certificate: none yet",
        f"├─ rotation {rotation.id}: initial, waiting for a certificate, 1 attempt",
        "│  ├─ reason: it is invalid: www.example.test: NXDOMAIN (dns)",
        "│  │  └─ the CA said: urn:ietf:params:acme:error:dns: NXDOMAIN",
        "│  ├─ remedy: make the name resolve for the CA",
        f"│  └─ next try: {rotation.next_attempt_at:%FT%TZ}",
    ] == shown.splitlines()[:-1]
    assert shown.splitlines()[-1].startswith("└─ targets: none was seen")


async def test_why_it_is_still_rolling_out_names_the_target_and_its_reason(run, issuances, database):
    await issuances.declare()
    one, two = await register(database), await register(database, "edge-2")
    certificate = await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    await confirm(database, roll_out, proved=[one], actor="r")
    await note(database, roll_out, two, "127.0.0.1:1: Connection refused")
    _, shown, _ = await run("why", "www")

    assert [
        "├─ target edge-1: proved 1",
        "└─ target edge-2: nothing yet",
        "   └─ not proved: 127.0.0.1:1: Connection refused",
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

    assert "└─ target edge-1: refused 1\n   ├─ refused 0 s ago: KEY_VALUES_MISMATCH\n   └─ remedy: " in shown


async def test_why_it_is_complete(run, issuances, database):
    await issuances.declare()
    target = await register(database)
    await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    await confirm(database, roll_out, proved=[target], actor="r")
    _, shown, _ = await run("why", "www")

    assert "initial, completed, 1 attempt" in shown
    assert "not proved" not in shown


async def done(database, name="www"):
    await confirm(database, await roll_outs.get(database, name), proved=[], actor="r", unobserved=True)


async def test_a_secret_is_declared_and_repeating_it_changes_nothing(run, issuances, database):
    words = ("issue", "www", "--domain", "www.example.test")
    first = await run(*words)
    await issuances.issue(await issuances.declare())
    await done(database)
    again = await run(*words)
    waited = await run(*words, "--wait")

    assert (0, "www is declared, rotation 1 is open; `certvoy why www` says how it goes\n", "") == first
    assert (0, "www is as it shall be: nothing to do\n", "") == again
    # And not the steps of another day, as if it had ordered one more.
    assert (0, "www is as it shall be: nothing to do\n") == (waited[0], waited[2])


async def test_what_no_option_names_stays_as_it_is_declared(run):
    """Said again without its names, it was ordered for its own name, and served for that by every proxy."""
    wished = ("--key-type", "rsa-2048", "--proof", "90%", "--key-holder", "target")
    await run("issue", "www", "--domain", "www.example.test", "--domain", "example.test", *wished)
    code, _, told = await run("issue", "www")
    _, shown, _ = await run("show", "www", "--json")

    assert (0, "") == (code, told)
    secret = json.loads(shown)
    assert ["www.example.test", "example.test"] == secret["domains"]
    assert ("rsa-2048", "90%", "target") == tuple(secret[key] for key in ("key_type", "proof", "key_holder"))


async def test_what_an_option_changes_is_told(run):
    await run("issue", "www", "--domain", "www.example.test", "--domain", "example.test")
    _, _, told = await run("issue", "www", "--domain", "api.example.test", "--key-type", "rsa-2048")

    assert [
        "www: domains changed from www.example.test, example.test to api.example.test",
        "www: key type changed from ecdsa-p256 to rsa-2048",
    ] == told.splitlines()


def refuse_to_read(*_path, **_query):
    raise api.Refused({"detail": "token:ci lacks the scope read"})


async def test_whoever_may_not_read_names_what_is_wanted(run, monkeypatch):
    """A token with the scope issue alone: without the names, others would take their place unseen."""
    monkeypatch.setattr(api.Api, "get", refuse_to_read)
    named = await run("issue", "www", "--domain", "www.example.test", "--issuer", "internal")
    code, _, told = await run("issue", "www", "--issuer", "internal")

    assert (0, 1) == (named[0], code)
    assert "token:ci lacks the scope read" in told


async def test_a_ca_that_is_named_anew_takes_the_place_of_the_fallbacks_too(run, issuances, database):
    before = replace(await issuances.declare(), issuer="gone", fallback=("internal",))
    await declarations.put(database, before, actor="person:test")
    _, _, told = await run("issue", "www", "--issuer", "internal")

    assert [
        "www: issuer changed from gone to internal",
        "www: fallback changed from internal to none",
    ] == told.splitlines()


async def test_why_nothing_is_ordered_where_its_ca_is_not_declared_any_more(run, issuances, database):
    """Before it is due, nothing else shows it."""
    wanted = replace(await issuances.declare(), issuer="renamed", fallback=("internal", "gone"))
    await declarations.put(database, wanted, actor="person:test")
    _, shown, _ = await run("why", "www")

    lines = [line for line in shown.splitlines() if "issuer" in line]
    remedy = "│  └─ remedy: declare it under `issuers:` and restart, or"
    remedy += " `certvoy issue www --issuer ...` names another"
    assert [
        "├─ ✗ issuer: renamed is not in the configuration of the replica asked",
        remedy,
        "├─ ✗ issuer: gone is not in the configuration of the replica asked",
        remedy,
    ] == lines


async def test_what_completes_a_rotation_is_declared_and_shown(run):
    await run("issue", "www", "--domain", "www.example.test", "--proof", "90%")
    _, shown, _ = await run("show", "www")
    _, why, _ = await run("why", "www")
    code, _, told = await run("issue", "www", "--domain", "www.example.test", "--proof", "most")

    assert ["proof", "90%"] in [line.split() for line in shown.splitlines()]
    assert "from internal (ecdsa-p256, proof 90%)" in why
    assert 1 == code
    assert 'must be all, accepted or a share such as 90%, got "most"' in told


async def test_waiting_tells_each_step_and_ends_with_what_became_of_it(run, issuances, database):
    words = ("issue", "www", "--domain", "www.example.test", "--wait", "--timeout", "60s")
    waiting = asyncio.create_task(run(*words))
    while await database_is_empty(database):
        await asyncio.sleep(0.01)
    claim = await issuances.claim()
    await rotations.fail(database, claim.lease, error=TOLD, pause=timedelta(0), abandon_order=True, actor="r")
    await issuances.issue(await issuances.declare())
    await done(database)
    code, shown, told = await waiting

    assert (0, "done, and seen by nobody: no target was subscribing, and none is registered\n") == (
        code,
        shown,
    )
    steps = [line.split()[2] for line in told.splitlines() if " s  " in line]
    assert ["rotation.opened", "rotation.claimed", "rotation.failed:", "rotation.claimed"] == steps[:4]
    assert "certificate.issued" in steps
    assert "the CA said: urn:ietf:params:acme:error:dns: NXDOMAIN" in told
    assert "remedy: make the name resolve for the CA" in told


async def database_is_empty(database):
    try:
        await progress.latest(database, "www")
    except NotFound:
        return True
    return False


async def test_waiting_ends_in_time_and_says_that_it_goes_on(run, issuances):
    await issuances.declare()
    code, _, told = await run("rotate", "www", "--wait", "--timeout", "100ms")

    assert 5 == code
    assert (
        "certvoy: rotation 1 has not ended within 0.1 s\nhint: it goes on without us: `certvoy why www`"
        in told
    )


async def test_waiting_for_a_ca_that_is_left_alone_says_so_once(run, issuances, database):
    """That is no step of the rotation: its CA is left alone for all."""
    await issuances.declare()
    await pauses.begin(database, ["internal"], lasts=timedelta(hours=1), error=TOLD, actor="replica:test")
    code, _, told = await run("rotate", "www", "--wait", "--timeout", "1s")

    assert 5 == code
    assert 1 == told.count(TOLD["what"])
    assert "remedy: make the name resolve for the CA" in told


async def test_the_inventory_is_listed_with_what_matters(run, issuances, database):
    await issuances.issue(await issuances.declare())
    await register(database)
    _, secrets, _ = await run("ls")
    _, found, _ = await run("ls", "--expires-in", "10000h")
    _, none, _ = await run("ls", "--expires-in", "1h")

    assert ["www", "issued"] == secrets.splitlines()[1].split()[:2]
    assert "0/1" in secrets
    assert ["www", "1", "issued"] == found.splitlines()[1].split()[:3]
    assert "" == none


async def test_programs_get_the_apis_own_json(run, issuances):
    await issuances.issue(await issuances.declare())

    for words in (("ls",), ("show", "www"), ("why", "www"), ("targets", "ls"), ("proxies",), ("audit", "ls")):
        code, shown, _ = await run(*words, "--json")
        assert 0 == code
        assert json.loads(shown) is not None


async def test_proxies_are_listed_the_worst_first_with_age_and_reason(run, issuances, database):
    await issuances.issue(await issuances.declare())
    await issuances.issue(await issuances.declare("api", ["api.example.test"]))
    peer = Identity("spiffe://example.test/edge")
    hour = timedelta(hours=1)
    await deliveries.write(
        database,
        [
            News(peer, "edge-1", "www", 1, 1, None, None, None, hour),
            News(peer, "edge-2", "www", 1, None, 1, "KEY_VALUES_MISMATCH", "v", hour),
        ],
        actor="r",
    )
    _, shown, _ = await run("proxies")
    _, only, _ = await run("proxies", "--secret", "api")

    _, first, second = shown.splitlines()
    assert ["edge-2", "www", "REFUSED", "1/1", "0", "s", "KEY_VALUES_MISMATCH"] == first.split()
    assert ["edge-1", "www", "ACCEPTED", "1/1"] == second.split()[:4]
    assert "" == only


async def test_a_token_is_printed_alone_and_works_until_it_is_revoked(run):
    code, text, told = await run("token", "create", "ci", "--scope", "read")
    _, listed, _ = await run("token", "ls")
    revoked = await run("token", "revoke", "ci")
    again = await run("token", "revoke", "ci")

    assert 0 == code
    assert text.startswith("certvoy_")
    assert 1 == len(text.split())
    assert "token ci ends at" in told
    assert text.strip() not in listed
    assert (0, 3) == (revoked[0], again[0])


@pytest.mark.parametrize("age", ["1d", "24h", "1440m", "86400s"])
async def test_a_length_of_time_is_written_as_in_the_configuration(run, age):
    assert 0 == (await run("audit", "ls", "--since", age))[0]


@pytest.mark.parametrize("age", ["24", "1y", "-1d", "36501d", "9" * 13 + "ms"])
async def test_what_is_no_length_of_time_says_how_to_write_one(run, age):
    code, _, told = await run("audit", "ls", f"--since={age}")

    assert 2 == code
    assert f"'{age}' is no duration: write 90s, 5m or 10d" in told


async def test_what_was_done_is_listed(run, issuances):
    await issuances.declare()
    _, shown, _ = await run("audit", "ls", "--subject", "www", "--action", "secret.created")

    assert ["secret.created", "www", "person:test"] == shown.splitlines()[1].split()[1:4]


@pytest.mark.parametrize(
    ("action", "hint"),
    [
        ("certificate.isued", "did you mean certificate.issued?"),
        ("bogus", "docs/reference/audit.md has them all"),
    ],
)
async def test_an_action_that_there_is_none_of_is_told(run, action, hint):
    code, shown, told = await run("audit", "ls", "--action", action)

    assert (2, "") == (code, shown)
    assert f"nothing was found, and no action is called {action}; {hint}" in told
    assert 0 == (await run("audit", "ls", "--action", "certificate.issued"))[0], "there may be none yet"


async def test_a_file_is_shown_with_what_is_known_of_it(run, issuances, tmp_path):
    certificate = await issuances.issue(await issuances.declare())
    (tmp_path / "leaf.pem").write_bytes(certificate.chain_pem)
    (tmp_path / "other.pem").write_bytes(issuances.ca.pem)
    _, ours, _ = await run("show", str(tmp_path / "leaf.pem"))
    _, other, _ = await run("show", str(tmp_path / "other.pem"))

    assert f"fingerprint    {certificate.fingerprint}" in ours
    assert "certvoy        www, generation 1, issued" in ours
    assert "certvoy        never issued it" in other


async def test_a_file_that_holds_no_certificate_is_said_to_without_a_parsers_words(run, tmp_path):
    (tmp_path / "token").write_text("certvoy_enrol_x")
    code, _, said = await run("show", str(tmp_path / "token"))

    assert 1 == code
    assert said.startswith(f"certvoy: {tmp_path}/token: holds no certificate in PEM\n")


async def test_who_deletes_what_is_served_is_told_by_whom_and_until_when(run, issuances, database):
    await issuances.issue(await issuances.declare())
    target = await register(database)
    await confirm(database, await roll_outs.get(database, "www"), proved=[target], actor="r")
    _, shown, _ = await run("show", "www", "--json")
    _, _, told = await run("delete", "www")

    ends = json.loads(shown)["certificate"]["not_after"][:19]
    assert f"served still, and renewed no more: by edge-1, until {ends}Z at the latest\n" == told


async def test_a_deleted_secret_is_gone(run, issuances):
    await issuances.declare()

    assert (0, "www is deleted\n", "") == await run("delete", "www")
    assert 3 == (await run("why", "www"))[0]


async def test_who_may_not_read_may_delete(run, issuances, monkeypatch):
    await issuances.issue(await issuances.declare())
    monkeypatch.setattr(api.Api, "get", refuse_to_read)

    assert (0, "www is deleted\n", "") == await run("delete", "www")


async def test_probing_exits_by_what_was_found(run, issuances, database):
    await issuances.issue(await issuances.declare())
    await register(database)
    code, shown, _ = await run("probe", "www")

    assert 1 == code
    assert ["edge-1", "www.example.test", "UNREACHABLE"] == shown.splitlines()[1].split()[:3]


async def test_what_cannot_be_probed_is_unknown_or_not_issued_yet(run, issuances):
    await issuances.declare()
    unknown, waiting = await run("probe", "wwww"), await run("probe", "www")

    assert [3, 3] == [unknown[0], waiting[0]]
    assert "secret wwww: there is none of that name" in unknown[2]
    assert "nothing is issued yet\nhint: `certvoy why www`" in waiting[2]


async def test_each_place_that_an_address_leads_to_is_a_line(run, issuances, tmp_path, monkeypatch):
    declared = await issuances.declare()
    pair = await pair_of(issuances, await issuances.issue(declared))
    known = socket.getaddrinfo

    def look(host, port, *more, **how):
        if host != "pool.test":
            return known(host, port, *more, **how)
        return [(socket.AF_INET, 1, 6, "", (ip, port)) for ip in ("127.0.0.1", "127.0.0.2")]

    async with Listener(tmp_path) as first:
        port = int(first.address.rpartition(":")[2])
        async with Listener(tmp_path, host="127.0.0.2", port=port) as second:
            first.serve(pair)
            second.serve(issuances.ca.issue(dns=["www.example.test"]))
            monkeypatch.setattr(socket, "getaddrinfo", look)
            differ = await run("probe", f"pool.test:{port}", "--server-name", "www.example.test")
            second.serve(pair)
            same = await run("probe", f"pool.test:{port}", "--server-name", "www.example.test")
        one = await run("probe", f"pool.test:{port}", "--server-name", "www.example.test")

    assert (1, 0, 1) == (differ[0], same[0], one[0])
    assert ["OK", "UNREACHABLE"] == [line.split()[4] for line in one[1].splitlines()[1:]]
    assert [[f"127.0.0.1:{port}", "OK"], [f"127.0.0.2:{port}", "FOREIGN"]] == [
        [line.split()[2], line.split()[4]] for line in differ[1].splitlines()[1:]
    ]
    assert [f"pool.test:{port}"] == [line.split()[0] for line in same[1].splitlines()[1:]]


def test_nobody_answering_is_said_with_what_to_start(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(api, "PATIENCE_S", 0.0)
    (tmp_path / "certvoy.yaml").write_text("state_dir: .\n")

    assert 1 == cli.main(["delete", "www", "--config", str(tmp_path / "certvoy.yaml")])
    told = capsys.readouterr().err
    assert f"certvoy: no certvoy answers at {tmp_path}/admin.sock: No such file or directory" in told
    assert "hint: start it with `certvoy serve --config" in told


def test_who_watches_is_told_what_is_waited_for(tmp_path, capsys, monkeypatch):
    """Once: a certvoy that was not started is the first thing that goes wrong, and ten seconds are long."""
    monkeypatch.setattr(api, "QUIET_S", 0.0)
    monkeypatch.setattr(api, "PAUSE_S", 0.01)
    (tmp_path / "certvoy.yaml").write_text("state_dir: .\n")

    with pytest.raises(Unavailable):
        api.local(tmp_path / "certvoy.yaml").get("v1", "secrets", patience_s=0.05)
    nobody = f"no certvoy answers at {tmp_path}/admin.sock: No such file or directory"
    assert f"{nobody}; asking for 0.05 s in all\n" == capsys.readouterr().err


def test_a_configuration_that_is_not_there_is_a_usage_error(tmp_path, capsys):
    assert 2 == cli.main(["ls", "--config", str(tmp_path / "nowhere.yaml")])
    assert "elsewhere by --url" in capsys.readouterr().err


async def test_a_server_that_is_not_trusted_is_asked_once_and_said_to_be_there(
    database, tmp_path, monkeypatch, capsys
):
    async with serving(database, tmp_path) as served:
        monkeypatch.setenv("CERTVOY_URL", f"https://127.0.0.1:{served.ports.api}")
        code = await asyncio.to_thread(cli.main, ["ls"])

    first, hint = capsys.readouterr().err.splitlines()
    assert (2, True) == (code, "is not trusted" in first)
    assert "--ca" in hint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serv"], "Did you mean 'serve'?"),
        (["proxies", "enrol", "edge-1", "--secret", "www"], "Did you mean 'enroll'?"),
    ],
)
def test_a_command_with_a_typo_is_answered_with_the_one_that_is_meant(words, said, capsys):
    assert 2 == cli.main(words)
    assert said in capsys.readouterr().err


async def test_a_server_elsewhere_is_asked_with_a_token_from_the_environment(
    database, tmp_path, monkeypatch, capsys
):
    async with serving(database, tmp_path) as served:
        monkeypatch.setenv("CERTVOY_URL", f"https://127.0.0.1:{served.ports.api}")
        monkeypatch.setenv("CERTVOY_CA", str(tmp_path / "server-ca.pem"))
        without = await asyncio.to_thread(cli.main, ["ls"])
        monkeypatch.setenv("CERTVOY_TOKEN", await served.token(Scope.READ))
        with_token = await asyncio.to_thread(cli.main, ["ls"])

    assert (1, 0) == (without, with_token)
    assert "Bearer" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://h:1", "h:1", "https://h:port", "https://h:99999", "https://[h"])
def test_a_url_that_is_none_is_a_usage_error(url, capsys):
    assert 2 == cli.main(["ls", "--url", url])
    assert f"--url: must be https://host:port, got {url!r}\n" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["certvoy_of somebody\nelse", "certvoy_of_sömebody"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(token, capsys, monkeypatch):
    monkeypatch.setenv("CERTVOY_TOKEN", token)

    assert 2 == cli.main(["ls", "--url", "https://localhost:1"])
    told = capsys.readouterr().err
    assert told.startswith("CERTVOY_TOKEN: holds no token\n")
    assert "certvoy_of" not in told


async def test_the_line_end_behind_a_token_is_none_of_it(database, tmp_path, monkeypatch, capsys):
    """As it is where somebody puts a file into the environment by hand."""
    async with serving(database, tmp_path) as served:
        monkeypatch.setenv("CERTVOY_TOKEN", await served.token(Scope.READ) + "\r\n")
        words = ["ls", "--url", f"https://127.0.0.1:{served.ports.api}"]
        code = await asyncio.to_thread(cli.main, [*words, "--ca", str(tmp_path / "server-ca.pem")])

    assert (0, "") == (code, capsys.readouterr().err)


@pytest.mark.parametrize("option", ["--ca", "--cert"])
def test_a_file_of_the_connection_that_is_not_there_is_named(option, tmp_path, capsys):
    missing = tmp_path / "missing.pem"

    assert 2 == cli.main(["ls", "--url", "https://localhost:1", option, str(missing)])
    assert f"{option}: cannot read {missing}: No such file or directory\n" in capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 301, 404])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]"])
def test_what_another_server_than_certvoy_says_is_an_error(status, body):
    with pytest.raises(CertvoyError, match=f"^it answered with {status}$") as raised:
        api._answer(status, body)

    assert "is this certvoy?" in raised.value.next_step


def test_the_schema_of_the_configuration_takes_what_the_program_takes(capsys):
    assert 0 == cli.main(["config", "schema"])
    schema = json.loads(capsys.readouterr().out)
    readme = Path(__file__).parents[3] / "README.md"
    block = readme.read_text().split("```yaml\n# certvoy.yaml\n")[1].split("```")[0]

    jsonschema.validate(yaml.safe_load(block), schema)
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(yaml.safe_load(block) | {"colour": "red"}, schema)


async def test_a_revocation_says_what_will_happen_and_why_it_has_not_yet(run, issuances, database):
    await issuances.issue(await issuances.declare())
    code, out, _ = await run("revoke", "www", "--reason", "cessationOfOperation")
    _, waiting, _ = await run("why", "www")
    await run("revoke", "www", "--generation", "1", "--now")
    claim = await revocations.claim(database, hold_for=timedelta(minutes=1))
    await revocations.failed(database, claim.cert_id, error=TOLD, pause=timedelta(minutes=1), actor="r")
    _, failing, _ = await run("why", "www")
    _, shown, _ = await run("show", "www")

    assert 0 == code
    assert "www, generation 1: the CA is asked once a later generation is proved everywhere" in out
    assert "rotation 2 brings its successor" in out
    assert "revocation of generation 1 (cessationOfOperation): waiting" in waiting
    assert "`certvoy revoke www --generation 1 --now` does not wait" in waiting
    assert "the CA said: urn:ietf:params:acme:error:dns: NXDOMAIN" in failing
    assert "remedy: make the name resolve for the CA" in failing
    assert "revocation of 1  failing: it is invalid" in shown


async def test_waiting_for_a_revocation_ends_in_time_and_says_why(run, issuances):
    await issuances.issue(await issuances.declare())
    code, _, err = await run("revoke", "www", "--now", "--wait", "--timeout", "100ms")

    assert 5 == code
    assert "generation 1 is not revoked yet: the CA is asked now" in err
    assert "`certvoy why www` says how it goes" in err


async def test_revoking_what_is_not_served_asks_which(run, issuances):
    await issuances.declare()
    code, _, err = await run("revoke", "www")

    assert 1 == code
    assert "nothing is served" in err
    assert "--generation" in err


async def test_a_pair_is_uploaded_and_seen(run, database, tmp_path):
    chain, key = authority("Bought").issue(["www.example.test"]).write(tmp_path, "www")
    words = ["upload", "www", "--chain", str(chain), "--private-key", str(key)]
    code, out, _ = await run(*words)
    _, ls, _ = await run("ls", "--issuer", "upload")
    roll_out = await roll_outs.get(database, "www")
    await confirm(database, roll_out, proved=[], actor="r", unobserved=True)
    again = await run(*words, "--wait")
    served = await run(*words)

    assert 0 == code
    assert "www has this pair, rotation 1 is open" in out
    assert "www.example.test" in ls
    assert (0, "done, and seen by nobody: no target was subscribing, and none is registered\n") == again[:2]
    assert "served with it already" in served[1]


async def test_who_uploads_a_leaf_alone_is_asked_for_its_intermediate(run, tmp_path):
    ca = authority("Bought").intermediate("Below")
    whole, key = ca.issue(["www.example.test"]).write(tmp_path, "whole")
    alone = tmp_path / "cert.pem"
    alone.write_text(whole.read_text().split("-----END", 1)[0] + "-----END CERTIFICATE-----\n")
    words = ["upload", "www", "--private-key", str(key), "--chain"]
    leaf = await run(*words, str(alone))
    chain, key = ca.issue(["www.example.test"]).write(tmp_path, "next")
    complete = await run("upload", "www", "--private-key", str(key), "--chain", str(chain))

    assert [0, 0] == [leaf[0], complete[0]]
    assert f"{alone} holds the leaf alone" in leaf[2]
    assert "" == complete[2]


async def test_a_pair_that_is_refused_or_a_file_that_is_not_there_says_what_to_do(run, tmp_path):
    chain, _ = authority("Bought").issue(["www.example.test"]).write(tmp_path, "www")
    _, key = authority("Bought").issue(["www.example.test"]).write(tmp_path, "other")
    refused = await run("upload", "www", "--chain", str(chain), "--private-key", str(key))
    missing = await run("upload", "www", "--chain", str(chain), "--private-key", str(tmp_path / "no.key"))

    assert (1, 1) == (refused[0], missing[0])
    assert "hint: send the private key that the leaf was issued for" in refused[2]
    assert "cannot read" in missing[2]


async def test_why_says_that_an_uploaded_secret_waits_for_a_person(run, database, tmp_path):
    chain, key = authority("Bought").issue(["www.example.test"]).write(tmp_path, "www")
    await run("upload", "www", "--chain", str(chain), "--private-key", str(key))
    roll_out = await roll_outs.get(database, "www")
    await roll_outs.reject(database, "www", roll_out.new_cert_id, error=TOLD, actor="r")

    _, why, _ = await run("why", "www")

    assert "waits for another pair: `certvoy upload www`" in why
    assert "next try" not in why


async def test_why_promises_no_renewal_of_an_uploaded_pair(run, tmp_path):
    chain, key = authority("Bought").issue(["www.example.test"]).write(tmp_path, "www")
    await run("upload", "www", "--chain", str(chain), "--private-key", str(key))

    _, why, _ = await run("why", "www")

    assert "another pair is wanted at " in why
    assert "renewed at" not in why


async def test_a_proxy_that_subscribes_to_nothing_is_listed_too(run):
    await run("targets", "add", "edge-7", "--probe", "127.0.0.1:1")

    _, shown, _ = await run("proxies")
    _, only, _ = await run("proxies", "--secret", "api")

    assert "edge-7" in shown
    assert "it subscribes to nothing" in shown
    assert "edge-7" not in only


async def test_where_no_proxy_is_the_list_says_where_others_are(run):
    await run("targets", "add", "web-1", "--kind", "nginx")

    code, shown, said = await run("proxies")

    assert (0, "") == (code, shown)
    assert "certvoy targets ls" in said


async def test_a_proxy_that_was_invited_is_listed_with_how_far_it_has_come(run):
    await run("proxies", "enroll", "edge-8", "--secret", "www")

    _, shown, _ = await run("proxies")

    (row,) = [line for line in shown.splitlines() if line.startswith("edge-8")]
    assert ["edge-8", "-", "INVITED", "-", "0", "s", "it", "has", "not", "enrolled"] == row.split()[:10]


async def test_an_invitation_by_hand_says_the_terms_of_its_names(run, database):
    terms = ("--kind", "tls_certificate", "--issue", "--max-names", "5")
    await run("proxies", "enroll", "edge-8", "--secret", "team/*", *terms)

    (grant,) = (await proxies.get(database, "edge-8")).grants
    assert ({Kind.TLS_CERTIFICATE}, True, 5) == (grant.kinds, grant.issue, grant.max_names)


async def test_issuing_again_by_hand_tries_again_at_once(run, issuances, database):
    await run("issue", "www", "--domain", "www.example.test", "--issuer", "internal")
    claim = await issuances.claim()
    await rotations.fail(
        database,
        claim.lease,
        error={"what": "the CA is away"},
        pause=timedelta(days=1),
        abandon_order=True,
        actor="replica:test",
    )

    await run("issue", "www", "--domain", "www.example.test", "--issuer", "internal")

    assert (await issuances.claim()).lease.rotation == claim.lease.rotation


async def test_a_secret_is_frozen_and_resumed_and_everything_says_so(run, issuances):
    await issuances.issue(await issuances.declare())
    frozen = await run("freeze", "www", "--reason", "a launch")
    _, listed, _ = await run("ls")
    _, shown, _ = await run("show", "www")
    _, why, _ = await run("why", "www")
    refused = await run("rotate", "www")
    resumed = await run("resume", "www")
    again = await run("resume", "www")
    _, after, _ = await run("why", "www")

    assert 0 == frozen[0]
    assert "www is frozen by person:" in frozen[1]
    assert "a launch; `certvoy resume www` ends it" in frozen[1]
    assert "issued (frozen)" in listed
    assert "Issuing: False (Frozen): frozen since " in shown
    assert "├─ ✗ frozen: since " in why
    assert ": a launch\n│  └─ remedy: `certvoy resume www` lets it go on\n" in why
    assert 1 == refused[0]
    assert "hint: `certvoy resume www` first" in refused[2]
    assert (0, "www goes on; `certvoy why www` says how\n", "") == resumed
    assert (1, "certvoy: secret www: it is not frozen") == (again[0], again[2].splitlines()[0])
    assert "frozen" not in after


async def test_a_freeze_needs_a_reason(run, issuances):
    await issuances.declare()

    assert 2 == (await run("freeze", "www"))[0]


async def test_where_certvoy_asks_its_question_holds_the_remedy(run, issuances, database):
    await issuances.declare()
    question = "refused; `certvoy resume www` goes on with it, `certvoy rollback www` goes back"
    await freezes.freeze(database, "www", reason=question, actor="replica:a")
    _, why, _ = await run("why", "www")

    assert f"by replica:a: {question}\n" in why
    assert "remedy" not in why


async def test_a_roll_out_is_taken_back_by_hand(run, issuances):
    await rolling_out(issuances, "edge-1", "edge-2")
    code, shown, _ = await run("rollback", "www")
    again = await run("rollback", "www")

    assert 0 == code
    assert "took generation 2 back; `certvoy why www` says what comes next\n" in shown
    assert (1, "certvoy: secret www: nothing is being rolled out") == (again[0], again[2].splitlines()[0])


async def test_why_names_the_canaries_and_who_waits_for_them(run, issuances):
    (canary,), (other,) = await rolling_out(issuances, "edge-1", "edge-2")
    _, why, _ = await run("why", "www")
    _, listed, _ = await run("proxies")

    assert f"rolling out, canaries first: {canary} asked, 1 attempt" in why
    assert "served: 0 of 2 proved to serve generation 2, 1 waits for the canaries" in why
    assert f"{other}: proved 1" in why
    assert "waits: it serves generation 1 until the canaries are proved" in why
    assert [canary, other] == [line.split()[0] for line in listed.splitlines()[1:]]
    assert ["WAITING", "1/1"] == listed.splitlines()[2].split()[2:4]


async def test_why_says_what_less_than_a_proof_of_each_a_rotation_rests_on(run, issuances, database, sql):
    declared = await issuances.declare()
    one, _ = await register(database), await register(database, "edge-2")
    await sql.execute("UPDATE secret SET proof = '50%'")
    await issuances.issue(declared)
    await confirm(database, await roll_outs.get(database, "www"), proved=[one], actor="r")
    _, why, _ = await run("why", "www")

    assert "└─ proof 50%: of 2 targets 1 proved, not edge-2" in why


async def test_who_waits_for_what_is_taken_back_is_told_at_once_and_why(run, issuances, database):
    await issuances.issue(await issuances.declare())
    await done(database)
    waiting = asyncio.create_task(run("rotate", "www", "--wait", "--timeout", "60s"))
    while (await progress.latest(database, "www")).outcome is not None:
        await asyncio.sleep(0.01)
    await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(database, "www")
    error = {"what": "generation 2 was taken back: edge-1: bad key", "hint": "mend what they name"}
    await roll_outs.reject(database, "www", roll_out.new_cert_id, error=error, actor="r")
    code, shown, told = await waiting

    assert (1, "") == (code, shown)
    assert told.endswith(
        "s  rotation.rolled_back\n"
        "certvoy: rotation 2: generation 2 was taken back: edge-1: bad key\nhint: mend what they name\n"
    )


async def test_what_was_taken_back_before_is_history_to_who_waits_for_the_next_attempt(
    run, issuances, database
):
    await rolling_out(issuances, "edge-1")
    await run("rollback", "www")
    code, _, told = await run("rotate", "www", "--wait", "--timeout", "100ms")

    assert 5 == code
    assert "rotation.rolled_back: person:" in told
    assert "rotation.hastened" in told


async def test_who_waits_is_told_of_the_canaries(run, issuances, database):
    await rolling_out(issuances, "edge-1", "edge-2")
    (canary,) = (await progress.latest(database, "www")).canaries
    _, _, told = await run("issue", "www", "--domain", "www.example.test", "--wait", "--timeout", "100ms")

    assert f"s  rotation.canaries: first, {canary}\n" in told
    assert f"of 2 targets: none has answered yet; canaries first: {canary} asked\n" in told


@pytest.mark.parametrize(
    ("kind", "said"),
    [("envoy", "nothing that it serves can be proved"), ("nginx", "what its agent sees is the proof")],
)
async def test_what_a_target_without_an_address_is_proved_by_is_said(run, issuances, kind, said):
    added = await run("targets", "add", "web-1", "--kind", kind)

    assert (0, f"target web-1 is registered; without --probe {said}\n", "") == added


async def test_an_admin_interface_is_registered(run, issuances):
    await issuances.declare()
    added = await run("targets", "add", "edge-1", "--admin", "127.0.0.1:9901", "--secret", "www")
    _, shown, _ = await run("targets", "show", "edge-1")

    assert (0, "target edge-1 is asked at 127.0.0.1:9901/certs\n", "") == added
    assert ["admin", "127.0.0.1:9901"] in [line.split() for line in shown.splitlines()]


async def test_that_a_listener_wants_the_proxy_protocol_is_named_shown_and_taken_back(run, issuances):
    _, added, _ = await run("targets", "add", "edge-1", "--probe", "127.0.0.1:1", "--proxy-protocol")
    _, again, _ = await run("targets", "add", "edge-1", "--probe", "127.0.0.1:2")
    _, shown, _ = await run("targets", "show", "edge-1")
    _, after, _ = await run("targets", "add", "edge-1", "--no-proxy-protocol")

    assert "target edge-1 is probed at 127.0.0.1:1, by the PROXY protocol first\n" == added
    assert "127.0.0.1:2, by the PROXY protocol first" in again
    assert ["proxy_protocol", "yes"] in [line.split() for line in shown.splitlines()]
    assert "target edge-1 is probed at 127.0.0.1:2\n" == after


async def test_that_http3_is_served_is_named_shown_and_taken_back(run, issuances):
    _, added, _ = await run("targets", "add", "edge-1", "--probe", "127.0.0.1:1", "--http3")
    _, again, _ = await run("targets", "add", "edge-1", "--probe", "127.0.0.1:2")
    _, shown, _ = await run("targets", "show", "edge-1")
    _, after, _ = await run("targets", "add", "edge-1", "--no-http3")

    assert "target edge-1 is probed at 127.0.0.1:1, and over QUIC\n" == added
    assert "127.0.0.1:2, and over QUIC" in again
    assert ["http3", "yes"] in [line.split() for line in shown.splitlines()]
    assert "target edge-1 is probed at 127.0.0.1:2\n" == after


async def test_an_address_with_http3_is_asked_over_tcp_and_over_quic(run, issuances, tmp_path):
    pair = await pair_of(issuances, await issuances.issue(await issuances.declare()))
    other = issuances.ca.issue(dns=["www.example.test"])
    async with Listener(tmp_path) as listener, QuicListener(address := listener.address) as beside:
        asked = address, "--server-name", "www.example.test", "--http3"
        listener.serve(pair)
        beside.serve(pair)
        same = [await run("probe", *asked), await run("show", *asked)]
        beside.serve(other)
        differ = [await run("probe", *asked), await run("show", *asked)]
        await beside.__aexit__()
        alone = await run("probe", *asked)

    (probed, rows, _), (shown, _, _) = same
    assert (0, 0, 2) == (probed, shown, rows.count(" OK "))
    assert f"{address} over QUIC" in rows
    (probed, rows, _), (shown, _, why) = differ
    assert (1, 1, 1) == (probed, rows.count(" OK "), rows.count(" FOREIGN "))
    assert f"{address} over QUIC serves another leaf than {address}: " in why
    assert "over QUIC: Connection refused" in alone[1]
    assert 0 not in {shown, alone[0]}


async def test_a_target_is_tried_step_by_step_and_says_what_to_do(run, issuances):
    await issuances.issue(await issuances.declare())
    await run("targets", "add", "edge-1", "--probe", "127.0.0.1:1", "--secret", "www")
    code, out, err = await run("targets", "test", "edge-1")
    as_json, document, _ = await run("targets", "test", "edge-1", "--json")

    assert (1, 1) == (code, as_json)
    assert ["STEP", "SECRET", "RESULT", "DETAIL"] == out.splitlines()[0].split()
    assert ["probe", "www", "failed"] == out.splitlines()[-1].split()[:3]
    assert "stream: see Envoy's log" in err
    assert {"target", "grant", "stream", "probe"} == {item["step"] for item in json.loads(document)}


async def test_a_push_address_is_named_shown_and_taken_away(run, issuances):
    await issuances.declare()
    who = "spiffe://certvoy/proxy/web-1"
    named = ("targets", "add", "web-1", "--secret", "www", "--kind", "nginx")
    _, _, refused = await run(*named, "--push", "https://web-1.example.test:8446")
    _, added, _ = await run(*named, "--push", "https://web-1.example.test:8446", "--identity", who)
    _, shown, _ = await run("targets", "show", "web-1")
    await run(*named, "--no-push")
    _, after, _ = await run("targets", "show", "web-1")

    assert "it cannot be pushed to: its identity is not known" in refused
    assert "pushed to https://web-1.example.test:8446" in added
    assert ["push", "https://web-1.example.test:8446"] in [line.split() for line in shown.splitlines()]
    assert ["push", "-"] in [line.split() for line in after.splitlines()]
