"""Secrets over the API: declared, read, listed, deleted, and what is refused."""

import asyncio
import io

import pytest

from sds_server.inventory import roll_outs
from tests.support.roll_outs import confirm

WWW = {"domains": ["www.example.test"], "issuer": "internal"}


async def test_what_is_put_is_declared_and_gets_its_first_rotation(api, sql):
    made = await api.local("PUT", "/v1/secrets/www", json=WWW)

    assert 201 == made.status
    assert ("www", ["www.example.test"], "api") == tuple(
        made.json[key] for key in ("name", "domains", "managed_by")
    )
    assert ("initial", "waiting") == (made.json["rotation"]["reason"], made.json["rotation"]["state"])
    assert made.json["certificate"] is None
    assert "person:" in await sql.fetchval("SELECT actor FROM certaudit WHERE action = 'secret.created'")


async def test_putting_the_same_again_changes_nothing(api):
    made = await api.local("PUT", "/v1/secrets/www", json=WWW)
    again = await api.local("PUT", "/v1/secrets/www", json=WWW)

    assert 200 == again.status
    assert made.json["rotation"]["id"] == again.json["rotation"]["id"]
    assert made.headers["ETag"] == again.headers["ETag"]


async def test_without_a_proof_it_is_all_of_the_live_set(api):
    assert "all" == (await api.local("PUT", "/v1/secrets/www", json=WWW)).json["proof"]


async def test_another_proof_is_another_declaration_and_no_other_certificate(api):
    made = await api.local("PUT", "/v1/secrets/www", json=WWW)
    changed = await api.local("PUT", "/v1/secrets/www", json=WWW | {"proof": "90%"})
    listed = await api.local("GET", "/v1/secrets")

    assert (200, "90%") == (changed.status, changed.json["proof"])
    assert made.headers["ETag"] != changed.headers["ETag"]
    assert ["rotation.opened"] == [
        step["name"]
        for step in (await api.local("GET", f"/v1/rotations/{made.json['rotation']['id']}")).json["steps"]
    ]
    assert ["90%"] == [item["proof"] for item in listed.json["items"]]


async def test_a_name_may_hold_a_slash(api):
    made = await api.local("PUT", "/v1/secrets/team%2Fapi", json=WWW)
    read = await api.local("GET", "/v1/secrets/team%2Fapi")

    assert ("team/api", "team/api") == (made.json["name"], read.json["name"])


async def test_two_who_change_the_same_do_not_undo_each_other(api):
    made = await api.local("PUT", "/v1/secrets/www", json=WWW)
    seen = made.headers["ETag"]
    more = WWW | {"domains": ["www.example.test", "example.test"]}

    first = await api.local("PUT", "/v1/secrets/www", json=more, headers={"If-Match": seen})
    second = await api.local("PUT", "/v1/secrets/www", json=WWW, headers={"If-Match": seen})
    anew = await api.local("PUT", "/v1/secrets/www", json=WWW, headers={"If-None-Match": "*"})

    assert (200, 412, 412) == (first.status, second.status, anew.status)
    assert more["domains"] == (await api.local("GET", "/v1/secrets/www")).json["domains"]


async def test_what_the_configuration_declares_is_changed_there(api):
    put = await api.local("PUT", "/v1/secrets/declared", json=WWW)
    deleted = await api.local("DELETE", "/v1/secrets/declared")

    assert (409, 409) == (put.status, deleted.status)
    assert "configuration file" in put.json["hint"]


@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({"issuer": "internal"}, "/domains", "required"),
        (WWW | {"domains": []}, "/domains", "at least one"),
        (WWW | {"domains": ["exa mple.test"]}, "/domains/0", ""),
        (WWW | {"key_type": "dsa"}, "/key_type", "ecdsa-p256"),
        (WWW | {"proof": "100%"}, "/proof", "a share such as 90%"),
        (WWW | {"colour": "red"}, "/colour", ""),
    ],
)
async def test_each_part_that_is_wrong_is_pointed_at(api, body, pointer, says):
    reply = await api.local("PUT", "/v1/secrets/www", json=body)

    assert 422 == reply.status
    assert "urn:certvoy:problem:validation-failed" == reply.json["type"]
    assert [pointer] == [error["pointer"] for error in reply.json["errors"]]
    assert says in reply.json["errors"][0]["detail"]
    assert 404 == (await api.local("GET", "/v1/secrets/www")).status


async def test_a_key_file_is_a_target_s_and_declared_with_it(api):
    body = {"domains": ["www.example.test"], "issuer": "internal", "key_file": "/keys/{spki}.pem"}
    refused = await api.local("PUT", "/v1/secrets/www", json=body)
    taken = await api.local("PUT", "/v1/secrets/www", json=body | {"key_holder": "target"})
    elsewhere = await api.local("PUT", "/v1/secrets/www", json=body | {"key_file": "/etc/shadow"})

    assert (400, 201, 422) == (refused.status, taken.status, elsewhere.status)
    assert "certvoy makes the keys" in refused.json["detail"]
    assert "/keys/{spki}.pem" == taken.json["key_file"]


async def test_an_issuer_that_nobody_declared_is_refused_with_those_that_are(api):
    reply = await api.local("PUT", "/v1/secrets/www", json=WWW | {"issuer": "elsewhere"})

    assert (422, "the configuration declares: internal, short, wild") == (reply.status, reply.json["hint"])


async def test_a_wildcard_is_refused_where_nothing_can_prove_it_and_taken_where_dns_can(api):
    """At once, and not when its order fails."""
    wanted = WWW | {"domains": ["example.test", "*.example.test"]}
    refused = await api.local("PUT", "/v1/secrets/www", json=wanted)

    assert 422 == refused.status
    assert (
        "*.example.test: a wildcard is proved by DNS-01 alone, and internal has no `dns`"
        in (refused.json["detail"])
    )
    assert "give `issuers.internal` a `dns` section" in refused.json["hint"]
    assert 404 == (await api.local("GET", "/v1/secrets/www")).status

    taken = await api.local("PUT", "/v1/secrets/www", json=wanted | {"issuer": "wild"})

    assert (201, wanted["domains"]) == (taken.status, taken.json["domains"])


async def test_names_that_an_issuer_or_one_that_is_fallen_back_on_does_not_certify_are_refused(api):
    first = await api.local("PUT", "/v1/secrets/www", json=WWW | {"issuer": "short"})
    second = await api.local("PUT", "/v1/secrets/www", json=WWW | {"fallback": ["short"]})

    assert [(422, "domains: too many", "make two")] * 2 == [
        (reply.status, reply.json["detail"], reply.json["hint"]) for reply in (first, second)
    ]


@pytest.mark.parametrize("name", ["a%00b", "a%0Ab", "%2A", "x" * 600])
async def test_a_name_that_envoy_could_not_ask_for_is_refused(api, name):
    assert (await api.local("PUT", f"/v1/secrets/{name}", json=WWW)).status in {400, 422}


@pytest.mark.parametrize("raw", [b"{", b"[]", b"null", b'{"domains": ' + b"[" * 100_000, b"\xff"])
async def test_what_is_not_a_json_object_is_refused_in_words(api, raw):
    reply = await api.local("PUT", "/v1/secrets/www", data=raw, headers={"Content-Type": "application/json"})

    assert reply.status in {400, 422}
    assert reply.json["hint"]


async def test_a_body_that_is_too_large_is_not_read(api):
    reply = await api.local(
        "PUT",
        "/v1/secrets/www",
        data=io.BytesIO(b" " * 2_000_000),
        headers={"Content-Type": "application/json"},
    )

    assert (413, "urn:certvoy:problem:too-large") == (reply.status, reply.json["type"])


async def test_what_is_served_and_proved_is_said_with_its_reasons(api, issuances):
    declared = await issuances.declare()
    certificate = await issuances.issue(declared)

    rolling_out = await api.local("GET", "/v1/secrets/www")
    roll_out = await roll_outs.get(api.database, "www")
    await confirm(api.database, roll_out, proved=[], actor="test", unobserved=True)
    complete = await api.local("GET", "/v1/secrets/www")

    assert certificate.fingerprint == rolling_out.json["certificate"]["fingerprint"]
    assert ("rolling_out", "completed_unobserved") == tuple(
        reply.json["rotation"]["state"] for reply in (rolling_out, complete)
    )
    conditions = {item["type"]: item for item in complete.json["conditions"]}
    assert (True, "Valid") == (conditions["Ready"]["status"], conditions["Ready"]["reason"])
    assert (False, "NoTarget") == (conditions["Served"]["status"], conditions["Served"]["reason"])
    assert complete.json["certificate"]["not_after"].endswith("Z")
    assert b"PRIVATE" not in complete.raw


async def test_a_deleted_secret_is_gone_nothing_is_ordered_for_it_and_its_history_stays(api, issuances, sql):
    await issuances.declare()
    claim = await issuances.claim()

    gone = await api.local("DELETE", "/v1/secrets/www")

    assert (204, 404, 404) == (
        gone.status,
        (await api.local("GET", "/v1/secrets/www")).status,
        (await api.local("DELETE", "/v1/secrets/www")).status,
    )
    assert "superseded" == await sql.fetchval(
        "SELECT outcome FROM certrotation WHERE id = $1", claim.lease.rotation
    )
    assert 1 == await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = 'secret.deleted'")
    assert [] == (await api.local("GET", "/v1/secrets")).json["items"]


async def test_a_deleted_name_can_be_declared_again(api):
    await api.local("PUT", "/v1/secrets/www", json=WWW)
    await api.local("DELETE", "/v1/secrets/www")

    again = await api.local("PUT", "/v1/secrets/www", json=WWW)

    assert (201, "waiting") == (again.status, again.json["rotation"]["state"])


async def test_pages_follow_each_other_and_miss_nothing(api):
    names = [f"s{number:02}" for number in range(7)]
    await asyncio.gather(*(api.local("PUT", f"/v1/secrets/{name}", json=WWW) for name in names))

    seen, cursor = [], ""
    while cursor is not None:
        page = await api.local("GET", f"/v1/secrets?limit=3{cursor and '&cursor=' + cursor}")
        seen += [item["name"] for item in page.json["items"]]
        cursor = page.json["next_cursor"]

    assert names == seen


async def test_a_list_can_be_narrowed(api):
    await api.local("PUT", "/v1/secrets/www", json=WWW)
    await api.local("PUT", "/v1/secrets/api", json=WWW | {"domains": ["api.example.test"]})

    found = await api.local("GET", "/v1/secrets?domain=api.example.test")

    assert ["api"] == [item["name"] for item in found.json["items"]]
    assert [] == (await api.local("GET", "/v1/secrets?issuer=other")).json["items"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "cursor=%7B", "cursor=WzFd", "colour=red", "limit=1&limit=2"]
)
async def test_a_query_that_means_nothing_is_refused(api, query):
    assert (await api.local("GET", f"/v1/secrets?{query}")).status in {400, 422}


async def test_what_cannot_be_done_says_what_can(api):
    reply = await api.local("POST", "/v1/secrets/www", json={})

    assert 405 == reply.status
    assert "DELETE, GET, HEAD, PUT" == reply.headers["Allow"] or "GET" in reply.headers["Allow"]


async def test_a_dead_database_is_named_and_worth_another_try(api, connect, postgres):
    await api.database.close()

    reply = await api.local("GET", "/v1/secrets")

    assert (503, "urn:certvoy:problem:unavailable") == (reply.status, reply.json["type"])
    assert reply.headers["Retry-After"]
