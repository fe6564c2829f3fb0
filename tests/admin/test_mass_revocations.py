"""All that a CA has issued, over the API: what is opened, how far it is, and when it will be done."""

from urllib.parse import quote

import pytest

from sds_server.inventory import roll_outs
from sds_server.lifecycle import mass_revoker
from tests.support.roll_outs import confirm

PATH = "/v1/issuers/internal/revocations"
NAMES = ("a", "b", "c")


@pytest.fixture
async def served(api, issuances):
    """Generation 1 of three secrets, active."""
    for name in NAMES:
        await issuances.issue(await issuances.declare(name, [f"{name}.example.test"]))
        await confirm(
            api.database, await roll_outs.get(api.database, name), proved=[], actor="r", unobserved=True
        )


async def progress(api, since):
    return (await api.local("GET", f"{PATH}?since={quote(since)}")).json


async def test_all_of_it_is_wanted_revoked_after_its_successors(api, served, sql):
    reply = await api.local("POST", PATH, json={"reason": "keyCompromise"})
    wanted = await sql.fetch("SELECT reason, at_once FROM revocation")
    rotations = await sql.fetch("SELECT reason FROM certrotation WHERE completed_at IS NULL")
    told = await progress(api, reply.json["since"])

    assert (202, 3, 0, None) == (
        reply.status,
        *(reply.json[key] for key in ("opened", "passed_over", "after")),
    )
    assert [("keyCompromise", False)] * 3 == [tuple(row) for row in wanted]
    assert ["revoked"] * 3 == [row["reason"] for row in rotations]
    assert (3, 3, 0, 0, 0) == tuple(
        told[key] for key in ("total", "waiting", "rolling_out", "replaced", "revoked")
    )
    assert told["done_at"] is not None


async def test_a_drill_revokes_nothing_says_so_in_the_audit_and_opens_nothing_twice(api, served, sql):
    first = await api.local("POST", PATH, json={"dry_run": True})
    again = await api.local("POST", PATH, json={"dry_run": True})
    opened = await sql.fetch(
        "SELECT payload::jsonb ->> 'why' AS why FROM certaudit WHERE action = 'rotation.opened'"
    )

    assert (3, 0) == (first.json["opened"], again.json["opened"])
    assert 3 == again.json["passed_over"]
    assert ["drill"] * 3 == [row["why"] for row in opened if row["why"] is not None]
    assert 0 == await sql.fetchval("SELECT count(*) FROM revocation")


async def test_it_is_opened_in_batches_and_frozen_secrets_stay_as_they_are(api, served, monkeypatch):
    monkeypatch.setattr(mass_revoker, "BATCH", 1)
    await api.local("PUT", "/v1/secrets/b/freeze", json={"reason": "a hold"})
    first = (await api.local("POST", PATH, json={})).json
    second = (await api.local("POST", PATH, json={"after": first["after"]})).json
    third = (await api.local("POST", PATH, json={"after": second["after"]})).json

    assert ["a", "c", None] == [reply["after"] for reply in (first, second, third)]
    assert [1, 1, 0] == [reply["opened"] for reply in (first, second, third)]


async def test_an_issuer_that_is_not_there_has_issued_nothing(api):
    assert 404 == (await api.local("POST", "/v1/issuers/other/revocations", json={})).status
    since = quote("2026-01-01T00:00:00+00:00")
    assert 404 == (await api.local("GET", f"/v1/issuers/other/revocations?since={since}")).status
