"""Secrets held as they are over the API: frozen, resumed, taken back, and what that refuses."""

import pytest

from sds_server.config.certvoy_yaml import load
from sds_server.declared import declare
from sds_server.inventory import freezes, progress
from tests.support.pki import authority
from tests.support.roll_outs import rolling_out

FREEZE = "/v1/secrets/www/freeze"
ROLLBACK = "/v1/secrets/www/rollback"


def issuing(reply):
    return next(condition for condition in reply.json["conditions"] if condition["type"] == "Issuing")


async def test_a_frozen_secret_says_so_by_whom_and_why(api, issuances):
    await issuances.declare()

    made = await api.local("PUT", FREEZE, json={"reason": "a launch"})
    read = await api.local("GET", "/v1/secrets/www")
    listed = await api.local("GET", "/v1/secrets")

    assert 201 == made.status
    assert made.json["frozen"] == read.json["frozen"] == listed.json["items"][0]["frozen"]
    assert "a launch" == read.json["frozen"]["reason"]
    assert read.json["frozen"]["by"].startswith("person:")
    assert (False, "Frozen") == (issuing(read)["status"], issuing(read)["reason"])
    assert "a launch" in issuing(read)["message"]


async def test_frozen_twice_it_stays_with_its_first_reason(api, issuances):
    await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})

    again = await api.local("PUT", FREEZE, json={"reason": "another"})

    assert (200, "a launch") == (again.status, again.json["frozen"]["reason"])


async def test_a_freeze_is_no_part_of_what_is_declared(api, issuances):
    await issuances.declare()
    before = await api.local("GET", "/v1/secrets/www")
    await api.local("PUT", FREEZE, json={"reason": "a launch"})

    assert before.headers["ETag"] == (await api.local("GET", "/v1/secrets/www")).headers["ETag"]


async def test_a_resumed_secret_goes_on(api, issuances):
    await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})

    resumed = await api.local("DELETE", FREEZE)

    assert 204 == resumed.status
    assert (await api.local("GET", "/v1/secrets/www")).json["frozen"] is None
    assert await issuances.claim()


async def test_what_is_not_frozen_cannot_be_resumed(api, issuances):
    await issuances.declare()

    reply = await api.local("DELETE", FREEZE)

    assert (409, "secret www: it is not frozen") == (reply.status, reply.json["detail"])


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 501, None])
async def test_a_freeze_needs_a_reason_on_one_line(api, issuances, reason):
    await issuances.declare()

    assert 422 == (await api.local("PUT", FREEZE, json={"reason": reason})).status


@pytest.mark.parametrize(("method", "path"), [("PUT", FREEZE), ("DELETE", FREEZE), ("POST", ROLLBACK)])
async def test_a_secret_that_is_not_there_is_not_found(api, method, path):
    assert 404 == (await api.local(method, path, json={"reason": "a launch"})).status


async def test_a_frozen_secret_takes_no_upload_and_no_rotation(api, issuances):
    await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})
    pair = authority("Bought").issue(dns=["www.example.test"])
    body = {"chain": pair.chain_pem.decode(), "private_key": pair.key_pem.decode()}

    uploaded = await api.local("PUT", "/v1/secrets/www/certificate", json=body)
    rotated = await api.local("POST", "/v1/secrets/www/rotations")

    for reply in (uploaded, rotated):
        assert (409, "`certvoy resume www` first") == (reply.status, reply.json["hint"])
        assert "a launch" in reply.json["detail"]
    assert (await api.local("GET", "/v1/secrets/www")).json["certificate"] is None


async def test_a_frozen_secret_is_not_declared_anew_and_stays_frozen(api, issuances):
    """Another name wants another certificate, and a freeze is not ended by who may know nothing of it."""
    declared = await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})
    body = {"domains": [*declared.domains, "other.example.test"], "issuer": declared.issuer}

    changed = await api.local("PUT", "/v1/secrets/www", json=body)
    same = await api.local("PUT", "/v1/secrets/www", json=body | {"domains": list(declared.domains)})

    assert (409, "`certvoy resume www` first") == (changed.status, changed.json["hint"])
    assert (200, "a launch") == (same.status, same.json["frozen"]["reason"])
    assert list(declared.domains) == same.json["domains"]


async def test_a_frozen_secret_that_the_configuration_declares_anew_keeps_nobody_from_starting(
    api, issuances, tmp_path
):
    declared = await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})
    (tmp_path / "certvoy.yaml").write_text(
        "database: embedded\nissuers: {ca: {directory: https://ca.example/dir, terms_agreed: true}}\n"
        "http01: {listen: 'off'}\nsds: {listen: '127.0.0.1:0'}\n"
        "secrets: {www: {domains: [other.example.test], issuer: ca}}\n"
    )
    await declare(load(tmp_path / "certvoy.yaml"), issuances.database, None)
    kept = (await api.local("GET", "/v1/secrets/www")).json

    assert (list(declared.domains), "a launch") == (kept["domains"], kept["frozen"]["reason"])


async def test_a_deleted_secret_that_was_frozen_begins_anew(api, issuances):
    declared = await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})
    await api.local("DELETE", "/v1/secrets/www")
    body = {"domains": list(declared.domains), "issuer": declared.issuer}

    assert (await api.local("PUT", "/v1/secrets/www", json=body)).json["frozen"] is None


async def test_an_operator_takes_a_roll_out_back(api, issuances):
    await rolling_out(issuances, "edge-1", "edge-2")

    reply = await api.local("POST", ROLLBACK)
    again = await api.local("POST", ROLLBACK)
    secret = (await api.local("GET", "/v1/secrets/www")).json

    assert (200, "waiting") == (reply.status, reply.json["state"])
    assert "took generation 2 back" in reply.json["last_error"]["what"]
    assert "rotation.rolled_back" == reply.json["steps"][-1]["name"]
    assert 1 == secret["certificate"]["generation"]
    assert (409, "secret www: nothing is being rolled out") == (again.status, again.json["detail"])


async def test_the_first_certificate_cannot_be_taken_back(api, issuances):
    await issuances.issue(await issuances.declare())

    reply = await api.local("POST", ROLLBACK)

    assert 409 == reply.status
    assert "it is the first" in reply.json["detail"]


async def test_where_certvoy_asks_a_rollback_is_an_answer(api, issuances):
    """Else nothing would be tried any more, and the one before ends soon."""
    await rolling_out(issuances, "edge-1", "edge-2")
    await freezes.freeze(api.database, "www", reason="what now?", actor="replica:a")

    await api.local("POST", ROLLBACK)

    assert (await api.local("GET", "/v1/secrets/www")).json["frozen"] is None


async def test_what_a_person_froze_stays_so_when_it_is_taken_back(api, issuances):
    await rolling_out(issuances, "edge-1", "edge-2")
    await api.local("PUT", FREEZE, json={"reason": "a launch"})

    await api.local("POST", ROLLBACK)

    assert "a launch" == (await api.local("GET", "/v1/secrets/www")).json["frozen"]["reason"]


async def test_who_waits_for_a_rotation_is_told_of_a_freeze(api, issuances):
    await issuances.declare()
    await api.local("PUT", FREEZE, json={"reason": "a launch"})
    await api.local("DELETE", FREEZE)

    rotation = (await progress.latest(api.database, "www")).id
    steps = (await api.local("GET", f"/v1/rotations/{rotation}")).json["steps"]

    assert ["secret.frozen", "secret.resumed"] == [step["name"] for step in steps[-2:]]
    assert "a launch" == steps[-2]["detail"]["reason"]
