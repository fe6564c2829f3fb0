"""Who calls, by each way in, and what they may."""

import asyncio
import getpass
import gzip
import json
import stat
from datetime import timedelta

import aiohttp
import pytest

from sds_server.admin import server as servers
from sds_server.admin.server import bind
from sds_server.errors import Unavailable
from sds_server.inventory import api_tokens
from sds_server.model import Identity, Scope
from tests.support.admin import HOST, serving
from tests.support.clocks import TurnedClock
from tests.support.pki import authority

OPS = "spiffe://example.test/ops"


async def test_the_machines_own_user_is_known_by_the_kernels_word_and_may_everything(api):
    reply = await api.local("GET", "/v1/whoami")

    assert 200 == reply.status
    assert f"person:{getpass.getuser()}" == reply.json["actor"]
    assert sorted(Scope) == reply.json["scopes"]


async def test_nobody_but_its_owner_may_open_the_socket(api):
    assert 0o600 == stat.S_IMODE(api.socket.stat().st_mode)


async def test_a_socket_may_lie_deeper_than_its_address_is_long(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    with bind(deep / "admin.sock") as channel:
        channel.listen()
        assert (deep / "admin.sock").is_socket()


async def test_a_socket_that_a_killed_process_left_is_taken_over_and_a_living_one_is_not(tmp_path):
    bind(tmp_path / "admin.sock").close()

    with bind(tmp_path / "admin.sock") as channel:
        channel.listen()
        with pytest.raises(Unavailable, match="another certvoy listens there"):
            bind(tmp_path / "admin.sock")


async def test_without_a_name_there_is_no_answer(api):
    reply = await api.remote("GET", "/v1/secrets")

    assert 401 == reply.status
    assert "CERTVOY_TOKEN" in reply.json["hint"]  # nobody says it to who forgot it in a command
    assert "urn:certvoy:problem:unauthenticated" == reply.json["type"]
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_token_is_its_name_to_the_audit_and_may_what_its_scopes_say(api, sql):
    token = await api.token(Scope.READ, name="ci")

    read = await api.remote("GET", "/v1/secrets", token=token)
    written = await api.remote("DELETE", "/v1/secrets/www", token=token)

    assert (200, 403) == (read.status, written.status)
    assert "token:ci lacks the scope admin" == written.json["detail"]
    assert await sql.fetchval("SELECT last_used_at IS NOT NULL FROM api_token")


async def test_admin_may_everything(api):
    token = await api.token(Scope.ADMIN)

    assert 200 == (await api.remote("GET", "/v1/secrets", token=token)).status


@pytest.mark.parametrize("text", ["", "certvoy_short", "certvoy_" + "A" * 43, "x" * 4000])
async def test_a_token_that_nobody_made_is_worth_nothing(api, text):
    assert 401 == (await api.remote("GET", "/v1/secrets", token=text)).status


async def test_a_token_ends_and_a_revoked_one_is_worth_nothing_at_once(api, database):
    _, brief = await api_tokens.create(
        database, "brief", scopes=[Scope.READ], lasts=timedelta(milliseconds=1), actor="person:test"
    )
    token = await api.token(Scope.READ, Scope.ADMIN, name="robot")
    listed = await api.remote("GET", "/v1/tokens", token=token)
    robot = next(item["id"] for item in listed.json["items"] if item["name"] == "robot")

    revoked = await api.remote("DELETE", f"/v1/tokens/{robot}", token=token)

    assert 204 == revoked.status
    assert 401 == (await api.remote("GET", "/v1/secrets", token=token)).status
    assert 401 == (await api.remote("GET", "/v1/secrets", token=brief)).status


async def test_the_text_of_a_token_is_said_once_and_stored_nowhere(api, sql):
    made = await api.local("POST", "/v1/tokens", json={"name": "ci", "scopes": ["read"], "ttl": "1h"})

    assert 201 == made.status
    text = made.json["token"]
    assert 200 == (await api.remote("GET", "/v1/secrets", token=text)).status
    rows = str(await sql.fetch("SELECT * FROM api_token")) + str(await sql.fetch("SELECT * FROM certaudit"))
    assert text not in rows
    assert "token" not in (await api.local("GET", "/v1/tokens")).json["items"][0]
    again = await api.local("POST", "/v1/tokens", json={"name": "ci", "scopes": ["read"]})
    assert 409 == again.status


async def test_a_client_certificate_gives_the_scopes_that_the_configuration_says(database, tmp_path):
    async with serving(database, tmp_path, clients={Identity(OPS): frozenset({Scope.READ})}) as api:
        ops = api.clients.issue(uris=[OPS])
        who = await api.remote("GET", "/v1/whoami", pair=ops)
        read = await api.remote("GET", "/v1/secrets", pair=ops)
        stranger = await api.remote("GET", "/v1/secrets", pair=api.clients.issue(dns=["x.example.test"]))

    assert (f"client:{OPS}", ["read"], OPS) == (who.json["actor"], who.json["scopes"], who.json["identity"])
    assert (200, 403) == (read.status, stranger.status)


async def test_a_certificate_that_has_expired_since_the_connection_began_opens_nothing(database, tmp_path):
    clock = TurnedClock()
    async with serving(database, tmp_path, clock=clock) as api:
        ops = api.clients.issue(uris=[OPS], days=1)
        before = await api.remote("GET", "/v1/whoami", pair=ops)
        clock.turn(timedelta(days=1))
        after = await api.remote("GET", "/v1/whoami", pair=ops)

    assert (200, 401) == (before.status, after.status)
    assert "expired" in after.json["detail"]


async def test_a_certificate_of_a_foreign_ca_opens_nothing(api):
    foreign = authority("foreign").issue(uris=[OPS])

    with pytest.raises(Exception, match=r"(?i)unknown ca|reset|closed|disconnected|alert"):
        await api.remote("GET", "/v1/whoami", pair=foreign)


async def test_the_listener_of_health_knows_health_and_nothing_else(api):
    health, secrets = await asyncio.gather(api.probe("GET", "/healthz"), api.probe("GET", "/v1/secrets"))

    assert (200, 404) == (health.status, secrets.status)


async def test_nobody_makes_certvoy_unpack_what_he_sends(api):
    body = gzip.compress(json.dumps({"token": "x", "csr": "x"}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    reply = await api.remote("POST", "/v1/enrolments", data=body, headers=headers)

    assert 400 == reply.status


async def test_a_client_ca_that_is_trusted_no_more_lets_nobody_in(database, tmp_path):
    async with serving(database, tmp_path, clients={Identity(OPS): frozenset({Scope.READ})}) as api:
        before = await api.remote("GET", "/v1/whoami", pair=api.clients.issue(uris=[OPS]))
        other = authority("others")
        other.write(tmp_path / "client-ca.pem")
        after = await api.remote("GET", "/v1/whoami", pair=other.issue(uris=[OPS]))

        assert (200, 200) == (before.status, after.status)
        with pytest.raises(aiohttp.ClientError):
            await api.remote("GET", "/v1/whoami", pair=api.clients.issue(uris=[OPS]))


async def test_who_connects_and_begins_no_handshake_is_hung_up_on(database, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "HANDSHAKE_S", 0.1)
    async with serving(database, tmp_path) as api:
        reader, writer = await asyncio.open_connection(HOST, api.ports.api)
        async with asyncio.timeout(20):
            said = await reader.read()
        writer.close()

    assert b"" == said


async def test_a_token_of_an_identity_is_made_with_an_end_and_may_nothing_here(api):
    body = {"name": "edge", "identity": "spiffe://td.test/edge", "ttl": "1h"}
    made = await api.local("POST", "/v1/tokens", json=body)
    asked = await api.remote("GET", "/v1/whoami", token=made.json["token"])

    assert (201, "spiffe://td.test/edge", []) == (made.status, made.json["identity"], made.json["scopes"])
    assert 401 == asked.status


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"identity": "spiffe://td.test/edge", "ttl": None}, "has an end"),
        ({"identity": "spiffe://certvoy/proxy/edge-1"}, "are for proxies that enrol"),
        ({"identity": "spiffe://td.test/edge", "scopes": ["read"]}, "scopes, or an identity"),
        ({}, "scopes, or an identity"),
    ],
)
async def test_a_token_that_would_be_a_credential_for_ever_or_nothing_at_all_is_not_made(api, wrong, said):
    made = await api.local("POST", "/v1/tokens", json={"name": "edge", **wrong})

    assert 400 == made.status
    assert said in made.json["detail"]
