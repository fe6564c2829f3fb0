"""A change that is asked for twice by one key is made once, on whichever replica."""

import asyncio
from datetime import timedelta

import pytest

from sds_server.admin import idempotency as idempotency_module
from sds_server.admin.table import ROUTES
from sds_server.inventory import rotations
from sds_server.model import Scope
from tests.support.admin import serving
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock

KEY = {"Idempotency-Key": "8f2b1c1e-0b52-4a3e-9b0f-6b8b2d1c7a55"}
OTHER = {"Idempotency-Key": "another"}
ROTATE = "/v1/secrets/www/rotations"


@pytest.fixture
async def served(issuances):
    declared = await issuances.declare()
    return await issuances.issue(declared)


async def counted(sql):
    return await sql.fetchval("SELECT count(*) FROM certrotation")


async def test_asked_again_it_is_answered_as_before_and_done_once(api, sql):
    body = {"name": "ci", "scopes": ["read"]}
    first = await api.local("POST", "/v1/tokens", json=body, headers=KEY)
    again = await api.local("POST", "/v1/tokens", json=body, headers=KEY)

    assert (201, first.json) == (again.status, again.json)
    assert ("true", None) == tuple(reply.headers.get("Idempotency-Replayed") for reply in (again, first))
    assert 1 == await sql.fetchval("SELECT count(*) FROM api_token")
    assert 200 == (await api.remote("GET", "/v1/secrets", token=again.json["token"])).status


async def test_another_key_is_another_wish(api, served, sql):
    await api.local("POST", ROTATE, headers=KEY)
    await api.local("POST", ROTATE, headers=OTHER)
    by_key = "SELECT DISTINCT payload::json ->> 'idempotency_key' AS key FROM certaudit"

    assert {None, *KEY.values(), *OTHER.values()} == {row["key"] for row in await sql.fetch(by_key)}


async def test_a_key_with_another_request_is_refused(api):
    await api.local("POST", "/v1/tokens", json={"name": "a", "scopes": ["read"]}, headers=KEY)
    other = await api.local("POST", "/v1/tokens", json={"name": "b", "scopes": ["read"]}, headers=KEY)
    elsewhere = await api.local("PUT", "/v1/targets/a", json={"probe": "127.0.0.1:1"}, headers=KEY)

    assert [409, 409] == [other.status, elsewhere.status]
    assert "was used for another request" in other.json["detail"]


async def test_a_key_is_its_callers_alone(api, served, sql):
    for name in ("a", "b"):
        token = await api.token(Scope.ROTATE, name=name)
        assert 202 == (await api.remote("POST", ROTATE, token=token, headers=KEY)).status


async def test_another_replica_does_it_no_second_time(api, database, tmp_path, served, sql):
    """A lost answer, and the replica that gave it is gone."""
    first = await api.local("POST", ROTATE, headers=KEY)
    (tmp_path / "b").mkdir()
    async with serving(database, tmp_path / "b") as other:
        again = await other.local("POST", ROTATE, headers=KEY)

    assert (202, 409) == (first.status, again.status)
    assert "was done at" in again.json["detail"]
    assert "rotation." in again.json["detail"]


async def test_an_answer_is_kept_for_an_hour_and_what_was_done_is_known_for_a_day(
    database, tmp_path, served, sql
):
    clock = TurnedClock()
    async with serving(database, tmp_path, clock=clock) as api:
        await api.local("POST", ROTATE, headers=KEY)
        clock.turn(timedelta(hours=1))
        later = await api.local("POST", ROTATE, headers=KEY)
        await turn_clock(sql, timedelta(hours=25))
        much_later = await api.local("POST", ROTATE, headers=KEY)

    assert (409, 202) == (later.status, much_later.status)


async def test_what_failed_may_be_asked_again(api, issuances):
    missing = await api.local("POST", ROTATE, headers=KEY)
    await issuances.issue(await issuances.declare())
    there = await api.local("POST", ROTATE, headers=KEY)

    assert (404, 202) == (missing.status, there.status)


async def test_one_that_is_under_way_is_not_begun_again(api, served, sql, monkeypatch):
    go_on, begun, real = asyncio.Event(), asyncio.Event(), rotations.open_for

    async def open_for(*args, **more):
        begun.set()
        await go_on.wait()
        return await real(*args, **more)

    monkeypatch.setattr(rotations, "open_for", open_for)
    before = await counted(sql)
    first = asyncio.create_task(api.local("POST", ROTATE, headers=KEY))
    await begun.wait()
    again = await api.local("POST", ROTATE, headers=KEY)
    go_on.set()

    assert (409, 202) == (again.status, (await first).status)
    assert "under way" in again.json["detail"]
    assert before + 1 == await counted(sql)


async def test_of_two_in_the_same_moment_one_begins(api, served, sql):
    before = await counted(sql)
    replies = await asyncio.gather(*(api.local("POST", ROTATE, headers=KEY) for _ in range(10)))

    assert 1 == sum(
        reply.status == 202 and "Idempotency-Replayed" not in reply.headers for reply in replies
    ), [reply.status for reply in replies]
    assert before + 1 == await counted(sql)


async def test_another_token_of_the_same_name_is_given_no_answer_of_the_first(api, sql):
    """A revoked token's name may be given again."""
    first = await api.token(Scope.ADMIN, name="ci")
    body = {"name": "new", "scopes": ["read"]}
    given = await api.remote("POST", "/v1/tokens", token=first, json=body, headers=KEY)
    await sql.execute("UPDATE api_token SET revoked_at = now() WHERE name = 'ci'")
    second = await api.token(Scope.ADMIN, name="ci")
    asked = await api.remote("POST", "/v1/tokens", token=second, json=body, headers=KEY)

    assert (201, 409) == (given.status, asked.status)
    assert "was done at" in asked.json["detail"]
    assert "token" not in asked.json


async def test_what_is_under_way_for_long_keeps_no_answers_and_is_answered(api, served, monkeypatch):
    monkeypatch.setattr(idempotency_module, "ANSWERS_MAX", 2)
    go_on, begun, real = asyncio.Event(), asyncio.Event(), rotations.open_for

    async def open_for(*args, **more):
        begun.set()
        await go_on.wait()
        return await real(*args, **more)

    async def put(number):
        headers = {"Idempotency-Key": f"key-{number}"}
        return await api.local("PUT", f"/v1/targets/{number}", json={"probe": "127.0.0.1:1"}, headers=headers)

    monkeypatch.setattr(rotations, "open_for", open_for)
    slow = asyncio.create_task(api.local("POST", ROTATE, headers=KEY))
    await begun.wait()
    for number in range(4):
        await put(number)
    forgotten = await put(0)
    go_on.set()

    assert 409 == forgotten.status
    assert 202 == (await slow).status


@pytest.mark.parametrize("key", ["", "with space", "x" * 256])
async def test_a_key_that_is_none_is_refused(api, key):
    reply = await api.local("POST", ROTATE, headers={"Idempotency-Key": key})

    assert 400 == reply.status


async def test_answers_are_bounded(api, monkeypatch):
    monkeypatch.setattr(idempotency_module, "ANSWERS_MAX", 2)
    for number in range(4):
        headers = {"Idempotency-Key": f"key-{number}"}
        await api.local("PUT", f"/v1/targets/{number}", json={"probe": "127.0.0.1:1"}, headers=headers)
    first = await api.local(
        "PUT", "/v1/targets/0", json={"probe": "127.0.0.1:1"}, headers={"Idempotency-Key": "key-0"}
    )

    assert 409 == first.status


def test_each_route_that_changes_something_takes_a_key():
    without = {f"{route.method} {route.path}" for route in keyless()}

    assert {"POST /v1/enrolments"} == without


def keyless():
    return [route for route in ROUTES if route.method != "GET" and not route.changes]
