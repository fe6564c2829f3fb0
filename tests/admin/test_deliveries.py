"""Reports of agents over the API: what counts as proof, whose word it is, and what is kept of it."""

import json

import pytest

from sds_server.identity import Grant
from sds_server.inventory import progress, roll_outs, rotations, targets
from sds_server.inventory.reports import NOT_SEEN
from sds_server.lifecycle.looks import NOT_REPORTED
from sds_server.lifecycle.prover import Prover
from sds_server.model import Outcome, Reason, Scope
from tests.lifecycle.test_prover import SETTLE
from tests.support.admin import serving
from tests.support.clocks import HastyClock
from tests.support.fakes import Listener, pair_of
from tests.support.roll_outs import note, rolling_out

EDGE = "spiffe://example.test/web-1"
OTHER = "spiffe://example.test/web-2"
PATH = "/v1/secrets/www/deliveries"


@pytest.fixture
def told():
    """The Secrets of which the prover was told."""
    return []


@pytest.fixture
async def api(database, tmp_path, told):
    grants = [Grant(EDGE, ("www", "nowhere")), Grant(OTHER, ("www",))]
    async with serving(database, tmp_path, grants=grants, on_said=told.append) as running:
        yield running


@pytest.fixture
async def certificate(issuances):
    return await issuances.issue(await issuances.declare())


@pytest.fixture
def prover(database):
    return Prover(database=database, settle=SETTLE, clock=HastyClock(), actor="replica:test")


async def report(api, path=PATH, *, by=EDGE, **body):
    return await api.remote("POST", path, pair=api.clients.issue(uris=[by]), json=body)


async def outcome(database):
    return (await progress.latest(database, "www")).outcome


async def marks(database):
    return {
        live.target.name: (live.accepted, live.refused, live.proved)
        for live in await targets.live_set(database, "www")
    }


async def test_a_handshake_of_the_agent_proves_where_we_cannot_look(api, database, certificate, prover, sql):
    got = await report(
        api,
        state="proved",
        target="web-1",
        kind="nginx",
        served_fingerprint=certificate.fingerprint,
        address="127.0.0.1:443",
    )
    await prover.step()

    assert (200, "proved", "nginx") == (got.status, got.json["state"], got.json["kind"])
    assert Outcome.COMPLETED == await outcome(database)
    assert "active" == await sql.fetchval("SELECT status FROM certificate")
    (told,) = await sql.fetch("SELECT actor, payload FROM certaudit WHERE action = 'delivery.proved'")
    detail = json.loads(told["payload"])
    assert (f"client:{EDGE}", "agent", "127.0.0.1:443") == (told["actor"], detail["by"], detail["address"])
    assert certificate.serial_number == detail["serial_number"]


async def test_an_agent_that_does_not_see_it_any_more_takes_its_word_back(api, database, certificate):
    """Nobody else looks: its program was restarted with other files, say, and will not load it again."""
    proved = {"state": "proved", "target": "web-1", "served_fingerprint": certificate.fingerprint}
    await report(api, **proved)
    lost = await report(api, state="refused", target="web-1", generation=1, detail="it serves another leaf")
    found = await report(api, **proved)

    assert ("refused", "it serves another leaf") == (lost.json["state"], lost.json["reason"])
    assert "proved" == found.json["state"]


async def test_a_word_of_long_ago_is_no_proof_until_it_is_said_again(api, certificate, sql):
    """Its host may be gone: nobody else looks."""
    proved = {"state": "proved", "target": "web-1", "served_fingerprint": certificate.fingerprint}
    await report(api, **proved)

    async def after(hours):
        await sql.execute("UPDATE delivery SET said_at = now() - make_interval(hours => $1)", hours)
        secret = (await api.local("GET", "/v1/secrets/www")).json
        (listed,) = (await api.local("GET", "/v1/secrets")).json["items"]
        (at_target,) = (await api.local("GET", "/v1/targets/web-1")).json["deliveries"]
        (delivery,) = secret["deliveries"]
        assert (delivery["state"], delivery["reason"]) == (at_target["state"], at_target["reason"])
        return delivery["state"], delivery["reason"], listed["proved"]

    recently, long_ago = await after(2), await after(4)
    again = await report(api, **proved)

    assert ("proved", None, 1) == recently
    assert ("unseen", "it was proved; its agent said it 4 h ago, and nothing since", 0) == long_ago
    assert ("proved", None) == (again.json["state"], again.json["reason"])
    assert ("proved", None, 1) == await after(0)


async def test_an_agent_that_cannot_see_any_more_what_it_has_proved_is_believed(api, certificate, database):
    """Its program was stopped, say: nobody answers there."""
    proved = {"state": "proved", "target": "web-1", "served_fingerprint": certificate.fingerprint}
    accepted = {"state": "accepted", "target": "web-1", "generation": 1}
    before = await report(api, **accepted)
    await report(api, **proved)
    silent = await report(api, **accepted)
    seen = await report(api, **proved)

    assert ["accepted", "unseen", "proved"] == [one.json["state"] for one in (before, silent, seen)]
    assert NOT_SEEN in silent.json["reason"]


async def test_what_an_agent_cannot_see_stays_unseen_when_the_next_one_is_taken_back(
    api, issuances, database, certificate, prover
):
    """Why it was not proved to serve the next one is forgotten then, and says nothing of this one."""
    await report(api, state="proved", target="web-1", served_fingerprint=certificate.fingerprint)
    await prover.step()
    await report(api, state="accepted", target="web-1", generation=1)
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issuances.issue(await issuances.declare())
    await prover.step()
    await roll_outs.roll_back(database, "www", actor="person:test")
    (delivery,) = (await api.local("GET", "/v1/secrets/www")).json["deliveries"]

    assert ("unseen", 1) == (delivery["state"], delivery["current"])


async def test_what_an_agent_proves_while_others_are_looked_at_is_seen(api, database, certificate):
    """The looks end together, seconds after its word came where one of them is answered by nobody."""
    await report(api, state="accepted", target="web-1", generation=1)
    roll_out = await roll_outs.get(database, "www")
    await report(api, state="proved", target="web-1", served_fingerprint=certificate.fingerprint)
    await note(database, roll_out, roll_out.live[0].target.id, NOT_REPORTED)
    (delivery,) = (await api.local("GET", "/v1/secrets/www")).json["deliveries"]

    assert ("proved", None) == (delivery["state"], delivery["reason"])


async def test_a_report_reads_no_other_target(api, certificate, database, sql, monkeypatch):
    """A fleet reports at once, and again each hour; each waits for the others at their Secret's lock."""
    read = []
    judged = targets._live

    def counting(target, row):
        read.append(target.name)
        return judged(target, row)

    for number in range(5):
        await targets.register(
            database, f"o-{number}", probe=None, identity=None, node_id=None, serves=["www"], actor="p"
        )
    monkeypatch.setattr(targets, "_live", counting)
    got = await report(api, state="proved", target="web-1", served_fingerprint=certificate.fingerprint)

    assert ("proved", "web-1") == (got.json["state"], got.json["target"])
    assert ["web-1"] == read


async def test_a_fingerprint_is_taken_as_openssl_writes_it(api, certificate):
    pairs = [certificate.fingerprint[at : at + 2].upper() for at in range(0, 64, 2)]

    assert "proved" == (await report(api, state="proved", served_fingerprint=":".join(pairs))).json["state"]


async def test_where_we_can_look_the_agents_word_is_only_a_reason_to(api, issuances, prover, told, tmp_path):
    database, certificate = api.database, await issuances.issue(await issuances.declare())
    async with Listener(tmp_path) as listener:
        listener.serve(issuances.ca.issue(dns=["www.example.test"]))
        await targets.register(
            database,
            "web-1",
            probe=listener.address,
            identity=EDGE,
            node_id="web-1",
            serves=["www"],
            actor="p",
        )
        said = {"state": "proved", "target": "web-1", "served_fingerprint": certificate.fingerprint}

        got = await report(api, **said)
        await prover.step()

        assert ("accepted", ["www"]) == (got.json["state"], told)
        assert {"web-1": (1, None, None)} == await marks(database)
        assert await outcome(database) is None

        listener.serve(await pair_of(issuances, certificate))
        await prover.step()

        assert Outcome.COMPLETED == await outcome(database)


async def test_one_agent_of_two_completes_nothing(api, database, certificate, prover):
    await report(api, by=OTHER, state="accepted", target="web-2", kind="nginx", generation=1)
    await report(api, state="proved", target="web-1", served_fingerprint=certificate.fingerprint)
    await prover.step()

    assert await outcome(database) is None
    found = {live.target.name: live.probe_error for live in await targets.live_set(database, "www")}
    assert {"web-1": None, "web-2": NOT_REPORTED} == found


async def test_a_refusal_is_kept_with_its_reason_and_taken_back_by_a_proof(api, database, certificate):
    refused = await report(
        api, state="refused", target="web-1", generation=1, detail="nginx: [emerg] key values mismatch"
    )
    proved = await report(api, state="proved", target="web-1", served_fingerprint=certificate.fingerprint)

    assert ("refused", "nginx: [emerg] key values mismatch") == (
        refused.json["state"],
        refused.json["reason"],
    )
    assert "proved" == proved.json["state"]


async def test_a_reason_is_scrubbed_of_keys_and_control_characters(api, issuances, certificate):
    key = (await pair_of(issuances, certificate)).key_pem.decode()
    detail = f"warn: first\nnginx: \x1b[31mbad\x00 \u202ekey:\n{key}\nnginx: test failed"

    reason = (await report(api, state="refused", generation=1, detail=detail)).json["reason"]

    assert reason.isprintable()
    assert "warn: first nginx:" in reason
    assert "test failed" in reason
    assert not [line for line in key.splitlines() if line in reason]


async def test_a_huge_reason_is_cut_and_a_larger_one_refused(api, certificate):
    kept = await report(api, state="refused", generation=1, detail="no " * 5000)
    larger = await report(api, state="refused", generation=1, detail="n" * 20_000)

    assert 2048 >= len(kept.json["reason"])
    assert 422 == larger.status


@pytest.mark.parametrize(
    "about",
    [
        {"generation": 2},
        {"fingerprint": "00" * 32},
        {"generation": 1, "fingerprint": "00" * 32},
        {"state": "proved", "served_fingerprint": "00" * 32},
    ],
)
async def test_what_is_not_current_is_not_taken_and_what_is_is_said(api, database, certificate, about):
    got = await report(api, **{"state": "accepted", "target": "web-1"} | about)

    assert 409 == got.status
    assert f"generation 1, leaf SHA-256 {certificate.fingerprint}" in got.json["hint"]
    assert {} == await marks(database)


async def test_a_leaf_of_yesterday_proves_nothing(api, database, issuances, certificate):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issuances.issue(await issuances.declare())

    got = await report(api, state="proved", served_fingerprint=certificate.fingerprint)

    assert 409 == got.status
    assert {} == await marks(database)


@pytest.mark.parametrize(
    "body",
    [
        {"state": "proved", "generation": 1},
        {"state": "refused", "generation": 1},
        {"state": "refused", "generation": 1, "detail": " \n"},
        {"state": "accepted"},
        {"state": "sent", "generation": 1},
        {"state": "accepted", "generation": 0},
        {"state": "accepted", "fingerprint": "zz" * 32},
        {"state": "accepted", "generation": 1, "target": "a\nb"},
        {"state": "accepted", "generation": 1, "kind": "envoy"},
        {"state": "accepted", "generation": 1, "address": "\x1b[2J"},
        {"state": "accepted", "generation": 1, "node_id": "x"},
    ],
)
async def test_a_report_that_says_too_little_or_nonsense_is_refused(api, certificate, body):
    assert 422 == (await report(api, **body)).status


async def test_a_report_without_a_grant_looks_as_if_there_were_no_secret(api, database, certificate):
    body = {"state": "proved", "served_fingerprint": certificate.fingerprint}

    denied = await report(api, by="spiffe://example.test/stranger", **body)
    absent = await report(api, "/v1/secrets/nowhere/deliveries", **body)

    assert (404, 404) == (denied.status, absent.status)
    assert {} == await marks(database)


async def test_nobody_speaks_for_another_identitys_target(api, database, certificate):
    await targets.register(
        database, "web-1", probe=None, identity=EDGE, node_id="web-1", serves=["www"], actor="person:test"
    )

    await report(api, by=OTHER, state="proved", target="web-1", served_fingerprint=certificate.fingerprint)

    assert {"web-1": (None, None, None), f"web-1 ({OTHER})": (1, None, 1)} == await marks(database)


async def test_a_token_with_the_scope_speaks_for_a_target_that_is_there(api, database, certificate):
    await targets.register(
        database, "web-1", probe=None, identity=None, node_id=None, serves=["www"], actor="person:test"
    )
    token = await api.token(Scope.DELIVER)
    body = {"state": "proved", "served_fingerprint": certificate.fingerprint}

    async def post(**more):
        return await api.remote("POST", PATH, token=token, json=body | more)

    assert 404 == (await post(target="web-9")).status
    assert 400 == (await post()).status
    assert "proved" == (await post(target="web-1")).json["state"]
    assert {"web-1": (1, None, 1)} == await marks(database)


async def test_an_envoys_own_word_is_its_ack_and_proves_nothing(api, database, certificate):
    """Else an identity could make up as many proved proxies as it likes."""
    await targets.register(
        database, "edge-1", probe=None, identity=EDGE, node_id="edge-1", serves=["www"], actor="person:test"
    )

    await report(api, state="proved", target="edge-1", served_fingerprint=certificate.fingerprint)

    assert {"edge-1": (1, None, None)} == await marks(database)


async def test_while_canaries_are_asked_all_others_report_what_they_are_offered(api, issuances):
    (canary,), (other,) = await rolling_out(issuances, "edge-1", "edge-2")
    token = await api.token(Scope.DELIVER)

    async def accepted(target, generation):
        body = {"state": "accepted", "target": target, "generation": generation}
        return (await api.remote("POST", "/v1/secrets/www/deliveries", token=token, json=body)).status

    assert (200, 409) == (await accepted(other, 1), await accepted(other, 2))
    assert (409, 200) == (await accepted(canary, 1), await accepted(canary, 2))
