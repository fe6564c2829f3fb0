"""The CAs over the API: our accounts there, what waits for a person, and what a CA says no to."""

from datetime import timedelta

import pytest

from sds_server.inventory import pauses

ERROR = {"what": "the CA of internal is left alone", "hint": "visit https://ca.example.test/terms"}


async def test_a_ca_that_waits_for_a_person_says_what_it_wants_and_is_resumed(api, database):
    await pauses.begin(database, ["internal"], lasts=None, error=ERROR, actor="replica:test")
    listed = await api.local("GET", "/v1/issuers")
    resumed = await api.local("POST", "/v1/issuers/internal/resume")
    (pause,) = await pauses.of(database, ["internal"])

    assert (None, ERROR) == tuple(listed.json["items"][0]["paused"][key] for key in ("until", "error"))
    assert (200, True) == (resumed.status, pause.over)


async def test_a_limit_says_when_it_ends(api, database):
    await pauses.begin(database, ["internal"], lasts=timedelta(hours=1), error=ERROR, actor="replica:test")
    listed = await api.local("GET", "/v1/issuers")

    assert listed.json["items"][0]["paused"]["until"] is not None


@pytest.mark.parametrize("what", ["account/key", "account/contact", "account/deactivation"])
async def test_what_the_ca_does_not_answer_is_told_as_such(api, what):
    reply = await api.local("POST", f"/v1/issuers/internal/{what}")

    assert (502, "urn:certvoy:problem:ca-refused") == (reply.status, reply.json["type"])
    assert reply.json["detail"].startswith("issuer internal: https://127.0.0.1:1: cannot connect")


@pytest.mark.parametrize("what", ["resume", "account/key", "account/contact", "account/deactivation"])
async def test_an_issuer_that_is_not_configured_is_not_found(api, what):
    assert 404 == (await api.local("POST", f"/v1/issuers/other/{what}")).status


@pytest.mark.parametrize("what", ["account/key", "account/contact", "account/deactivation"])
async def test_only_an_administrator_touches_an_account(api, what):
    token = (await api.local("POST", "/v1/tokens", json={"name": "t", "scopes": ["rotate"]})).json["token"]

    assert 403 == (await api.remote("POST", f"/v1/issuers/internal/{what}", token=token)).status
