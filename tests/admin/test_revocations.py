"""Revocations over the API: what will happen, and where it is told how far that is."""

import pytest

from sds_server.inventory import revocations, roll_outs
from sds_server.model import Scope
from tests.support.roll_outs import confirm

PATH = "/v1/secrets/www/revocations"


@pytest.fixture
async def served(api, issuances):
    """Generation 1 of www, active."""
    certificate = await issuances.issue(await issuances.declare())
    roll_out = await roll_outs.get(api.database, "www")
    await confirm(api.database, roll_out, proved=[], actor="r", unobserved=True)
    return certificate


async def test_what_is_served_waits_for_its_successor_and_both_are_told(api, served):
    reply = await api.local("POST", PATH, json={})
    secret = (await api.local("GET", "/v1/secrets/www")).json
    certificate = (await api.local("GET", f"/v1/certificates/{served.id}")).json

    assert 202 == reply.status
    revocation, rotation = reply.json["revocation"], reply.json["rotation"]
    assert (1, "superseded", False, "waiting") == tuple(
        revocation[key] for key in ("generation", "reason", "now", "state")
    )
    assert "once a later generation is proved everywhere" in revocation["message"]
    assert ("revoked", "waiting") == (rotation["reason"], rotation["state"])
    assert [revocation] == secret["revocations"]
    assert revocation == certificate["revocation"]
    assert secret["rotation"]["id"] == rotation["id"]


async def test_now_the_ca_is_asked_and_what_is_revoked_is_not_ready(api, served):
    reply = await api.local("POST", PATH, json={"reason": "keyCompromise", "now": True})
    await revocations.done(api.database, served.id, actor="r")
    secret = (await api.local("GET", "/v1/secrets/www")).json
    (listed,) = (await api.local("GET", "/v1/certificates?status=revoked")).json["items"]

    assert "asking" == reply.json["revocation"]["state"]
    assert secret["certificate"] is None
    ready = next(condition for condition in secret["conditions"] if condition["type"] == "Ready")
    assert (False, "Revoked") == (ready["status"], ready["reason"])
    assert "generation 1 is revoked" in ready["message"]
    assert ("keyCompromise", "revoked") == tuple(listed["revocation"][key] for key in ("reason", "state"))
    assert listed["revoked_at"] is not None


async def test_a_certificate_that_nobody_wants_revoked_says_nothing_of_it(api, served):
    assert (await api.local("GET", f"/v1/certificates/{served.id}")).json["revocation"] is None
    assert [] == (await api.local("GET", "/v1/secrets/www")).json["revocations"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"reason": "cACompromise"}, "/reason"),
        ({"reason": 1}, "/reason"),
        ({"generation": 0}, "/generation"),
        ({"generation": 2**31}, "/generation"),
        ({"at_once": True}, "/at_once"),
    ],
)
async def test_each_part_that_is_wrong_is_pointed_at(api, served, body, pointer):
    reply = await api.local("POST", PATH, json=body)

    assert 422 == reply.status
    assert [pointer] == [error["pointer"] for error in reply.json["errors"]]


async def test_who_may_rotate_may_not_revoke(api, served):
    may_not = await api.token(Scope.ROTATE, Scope.ISSUE, name="rotator")
    may = await api.token(Scope.REVOKE, name="revoker")

    assert 403 == (await api.remote("POST", PATH, token=may_not, json={})).status
    assert 202 == (await api.remote("POST", PATH, token=may, json={})).status
