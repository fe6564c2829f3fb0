"""Rotations over the API: opened, followed step by step, waited for."""

import asyncio
from datetime import timedelta

import pytest

from sds_server.inventory import deliveries, roll_outs
from sds_server.inventory.deliveries import News
from sds_server.model import Identity
from tests.support.roll_outs import confirm

EDGE = Identity("spiffe://example.test/edge")


def news(**more):
    base = dict.fromkeys(("sent", "accepted", "refused", "refusal", "refused_version"))
    return News(EDGE, "edge-1", "www", **base | {"seen_for": timedelta(hours=1)} | more)


async def complete(api):
    roll_out = await roll_outs.get(api.database, "www")
    await confirm(api.database, roll_out, proved=[], actor="test", unobserved=True)


async def test_a_rotation_is_opened_where_it_can_be_followed(api, issuances):
    await issuances.issue(await issuances.declare())
    await complete(api)

    opened = await api.local("POST", "/v1/secrets/www/rotations", json={})
    read = await api.local("GET", opened.headers["Location"])

    assert 202 == opened.status
    assert ("operator", "waiting", ["rotation.opened"]) == (
        read.json["reason"],
        read.json["state"],
        [step["name"] for step in read.json["steps"]],
    )


async def test_repeating_it_hastens_the_same_rotation(api, issuances):
    await issuances.issue(await issuances.declare())
    await complete(api)

    first = await api.local("POST", "/v1/secrets/www/rotations")
    second = await api.local("POST", "/v1/secrets/www/rotations")

    assert first.json["id"] == second.json["id"]
    assert ["rotation.opened", "rotation.hastened"] == [step["name"] for step in second.json["steps"]]


async def test_the_steps_of_one_rotation_are_its_own_and_in_order(api, issuances):
    declared = await issuances.declare()
    await issuances.issue(declared)
    await complete(api)
    await api.local("POST", "/v1/secrets/www/rotations")
    await issuances.issue(declared)

    listed = await api.local("GET", "/v1/rotations?secret=www")
    second, first = [await api.local("GET", f"/v1/rotations/{item['id']}") for item in listed.json["items"]]

    names = ["rotation.opened", "rotation.claimed", "order.planned", "certificate.issued"]
    assert [*names, "rotation.completed_unobserved"] == [step["name"] for step in first.json["steps"]]
    assert names == [step["name"] for step in second.json["steps"]]
    assert "rolling_out" == second.json["state"]
    times = [step["at"] for step in first.json["steps"]]
    assert sorted(times) == times


async def test_a_worker_at_it_is_seen(api, issuances):
    await issuances.declare()
    await issuances.claim()

    listed = await api.local("GET", "/v1/rotations?open=true")

    assert ["issuing"] == [item["state"] for item in listed.json["items"]]
    assert [] == (await api.local("GET", "/v1/rotations?open=false")).json["items"]


async def test_how_far_the_targets_are_is_counted(api, issuances):
    await issuances.issue(await issuances.declare())
    await deliveries.write(api.database, [news(sent=1, accepted=1)], actor="test")

    reached = (await api.local("GET", "/v1/rotations/1")).json["reached"]

    assert {"targets": 1, "sent": 1, "accepted": 1, "refused": 0, "proved": 0} == reached


async def test_who_waits_is_answered_by_the_next_step(api, issuances):
    await issuances.declare()
    waiting = asyncio.create_task(api.local("GET", "/v1/rotations/1?wait=60&steps=1"))
    await asyncio.sleep(0)

    await issuances.claim()

    assert ["rotation.opened", "rotation.claimed"] == [step["name"] for step in (await waiting).json["steps"]]


async def test_who_waits_is_told_when_another_target_is_further(api, issuances):
    await issuances.issue(await issuances.declare())
    steps = len((await api.local("GET", "/v1/rotations/1")).json["steps"])
    waiting = asyncio.create_task(api.local("GET", f"/v1/rotations/1?wait=60&steps={steps}"))
    await asyncio.sleep(0.1)

    await deliveries.write(api.database, [news(sent=1)], actor="test")

    assert 1 == (await waiting).json["reached"]["sent"]


async def test_who_waits_for_what_has_ended_is_answered_at_once(api, issuances):
    await issuances.issue(await issuances.declare())
    await complete(api)

    async with asyncio.timeout(20):
        reply = await api.local("GET", "/v1/rotations/1?wait=60&steps=500")

    assert "completed_unobserved" == reply.json["state"]


async def test_many_who_wait_hold_no_connection(api, issuances):
    await issuances.declare()
    waiting = [asyncio.create_task(api.local("GET", "/v1/rotations/1?wait=60&steps=1")) for _ in range(100)]
    await asyncio.sleep(0)

    async with asyncio.timeout(20):
        assert 200 == (await api.local("GET", "/v1/secrets")).status
    await issuances.claim()

    assert {200} == {reply.status for reply in await asyncio.gather(*waiting)}


@pytest.mark.parametrize("number", ["0", "x", "-1", str(2**63), "9" * 60, "%C2%B2"])
async def test_an_id_that_nothing_has_is_not_found(api, number):
    assert 404 == (await api.local("GET", f"/v1/rotations/{number}")).status


async def test_a_secret_that_is_not_there_cannot_be_rotated(api):
    reply = await api.local("POST", "/v1/secrets/nobody/rotations")

    assert (404, "secret nobody: there is none of that name") == (reply.status, reply.json["detail"])
