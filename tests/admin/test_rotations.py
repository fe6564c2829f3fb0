"""Rotations over the API: opened, followed step by step, waited for."""

import asyncio
from datetime import timedelta

import pytest

from sds_server.inventory import deliveries, roll_outs, targets
from sds_server.inventory.deliveries import News
from sds_server.model import Identity
from tests.support.roll_outs import confirm, rolling_out

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


async def test_while_canaries_are_asked_they_are_named_and_all_others_wait_for_them(api, issuances):
    (canary,), (other,) = await rolling_out(issuances, "edge-1", "edge-2")

    rotation = (await api.local("GET", "/v1/rotations/2")).json
    secret = (await api.local("GET", "/v1/secrets/www")).json
    target = (await api.local("GET", f"/v1/targets/{other}")).json

    assert ("canary", [canary], None) == tuple(rotation[key] for key in ("stage", "canaries", "evidence"))
    states = {item["target"]: (item["state"], item["current"]) for item in secret["deliveries"]}
    assert {canary: ("stale", 2), other: ("waiting", 1)} == states
    assert ("waiting", 1) == tuple(target["deliveries"][0][key] for key in ("state", "current"))
    served = next(item for item in secret["conditions"] if item["type"] == "Served")
    issuing = next(item for item in secret["conditions"] if item["type"] == "Issuing")
    assert "0 of 2 proved to serve generation 2, 1 waits for the canaries" == served["message"]
    assert f"rotation 2, rolling out, canaries first: {canary} asked" == issuing["message"]


async def test_once_the_canaries_are_proved_nobody_waits(api, issuances):
    (canary,), (other,) = await rolling_out(issuances, "edge-1", "edge-2")
    target = (await targets.get(api.database, canary)).target.id
    await confirm(api.database, await roll_outs.get(api.database, "www"), proved=[target], actor="test")

    secret = (await api.local("GET", "/v1/secrets/www")).json

    assert "fleet" == secret["rotation"]["stage"]
    assert {canary: "proved", other: "stale"} == {
        item["target"]: item["state"] for item in secret["deliveries"]
    }


async def test_a_complete_rotation_says_what_that_rests_on_and_each_target_how_it_was_proved(api, issuances):
    await rolling_out(issuances, "edge-1")
    target = (await targets.get(api.database, "edge-1")).target.id
    await confirm(api.database, await roll_outs.get(api.database, "www"), proved=[target], actor="test")

    rotation = (await api.local("GET", "/v1/rotations/2")).json
    (delivery,) = (await api.local("GET", "/v1/secrets/www")).json["deliveries"]

    assert {
        "policy": "all",
        "targets": 1,
        "proved": {"handshake": 1},
        "accepted": 0,
        "unproved": [],
    } == rotation["evidence"]
    assert ("handshake", None, None) == tuple(delivery[key] for key in ("proved_by", "served", "stale_since"))
    assert delivery["proved_at"]


async def test_a_target_that_serves_another_leaf_again_is_stale_whatever_is_recorded(api, issuances, sql):
    await rolling_out(issuances, "edge-1")
    await sql.execute(
        "UPDATE delivery SET proved = 2, served = $1, stale_since = certvoy_now() - interval '2 hours'",
        "ab" * 32,
    )

    secret = (await api.local("GET", "/v1/secrets/www")).json
    listed = (await api.local("GET", "/v1/secrets")).json["items"]

    (delivery,) = secret["deliveries"]
    assert ("stale", "for 2 h it serves abababababababab..., not generation 2") == (
        delivery["state"],
        delivery["reason"],
    )
    assert delivery["stale_since"]
    assert [0] == [item["proved"] for item in listed]
