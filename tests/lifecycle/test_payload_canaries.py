"""What is no certificate goes to canaries first, and is taken back as Certificates are."""

from datetime import timedelta

import pytest

from sds_server.errors import Conflict
from sds_server.inventory import declarations, freezes, payload_roll_outs, payloads, targets
from sds_server.lifecycle.rollout import PATIENCE
from sds_server.payloads.generic import GenericSecret
from tests.support.databases import turn_clock
from tests.support.payloads import NAME, NEW, OLD, Plane, sent
from tests.support.pki import authority

FLEET = ("edge-1", "edge-2", "edge-3", "edge-4")


@pytest.fixture
async def plane(issuances):
    """Four Envoys that have taken the old bundle; two of them are asked first about the next."""
    plane = Plane(issuances)
    await plane.put(OLD)
    for node in FLEET:
        await plane.says(node, accepted=1)
    await plane.turned()
    assert ["completed"] == await plane.outcome()
    return plane


async def canaries(plane, name=NAME):
    """Which Envoys are offered another generation than all others."""
    for_all = await plane.offered(name)
    generations = {node: (await plane.offered_to(node, name)).generation for node in FLEET}
    return for_all.generation, sorted(node for node in FLEET if generations[node] != for_all.generation)


async def everybody(plane):
    return {(await plane.offered_to(node)).generation for node in FLEET}


async def test_two_of_four_are_offered_a_new_bundle_first_and_all_once_they_have_taken_it(plane, sql):
    await plane.put(OLD, NEW)
    for_all, asked = await canaries(plane)
    live = await targets.live_set(plane.database, NAME)
    await plane.says(asked[0], accepted=2)
    await plane.turned()
    after_one = await canaries(plane)
    await plane.says(asked[1], accepted=2)
    await plane.turned()

    assert (1, 2) == (for_all, len(asked))
    assert {node: node not in asked for node in FLEET} == {item.target.name: item.waits for item in live}
    assert {node: 1 + (node in asked) for node in FLEET} == {item.target.name: item.current for item in live}
    assert (1, asked) == after_one
    assert {2} == await everybody(plane)
    assert [None, "completed"] == await plane.outcome()
    actions = await sql.fetch("SELECT action FROM certaudit WHERE subject = $1 ORDER BY id", NAME)
    assert ["payload.stored", "payload.fanned_out"] == [
        row["action"] for row in actions if row["action"] in {"payload.stored", "payload.fanned_out"}
    ][1:]


async def test_what_the_canaries_refuse_reaches_nobody_else_and_the_one_before_is_current(plane):
    await plane.put(OLD, NEW)
    _, asked = await canaries(plane)
    for node in asked:
        await plane.says(node, refused=2)
    await plane.turned()

    assert ["rejected", "completed"] == await plane.outcome()
    assert {1} == await everybody(plane)
    assert "canaries-refused" == (await payloads.history(plane.database, NAME))[0].error["rule"]


async def test_nothing_is_taken_back_of_a_bundle_that_is_removed(plane):
    await plane.put(OLD, NEW)
    await declarations.remove(plane.database, NAME, actor="person:test")
    settled = await payload_roll_outs.settle(
        plane.database,
        NAME,
        2,
        proved=(),
        contradicted={},
        looked_at=(),
        known=True,
        grace=timedelta(0),
        actor="replica:a",
    )

    assert payload_roll_outs.OVER == settled
    assert not await payload_roll_outs.reject(
        plane.database, NAME, 2, error={"what": "no", "rule": "ca"}, actor="replica:a"
    )


async def test_a_canary_that_says_nothing_is_passed_over_and_another_is_asked(plane, sql):
    await plane.put(OLD, NEW)
    _, asked = await canaries(plane)
    await turn_clock(sql, PATIENCE * 2)
    await plane.turned()
    _, more = await canaries(plane)

    assert set(asked) < set(more)


async def test_the_first_version_and_one_for_a_single_proxy_go_to_all_at_once(issuances):
    plane = Plane(issuances)
    for node in FLEET:
        await plane.says(node)
    await plane.put(OLD)
    first = await canaries(plane)

    assert (1, []) == first


async def test_sealed_kinds_go_to_canaries_as_well(issuances):
    plane = Plane(issuances)
    await plane.service.put("token", GenericSecret(value=b"one"), actor="person:test")
    for node in FLEET:
        await plane.says(node, accepted=1, name="token")
    await plane.turned("token")
    await plane.service.put("token", GenericSecret(value=b"two"), actor="person:test")
    _, asked = await canaries(plane, "token")

    assert 2 == len(asked)
    assert b"one" == sent(await plane.offered("token")).generic_secret.secret.inline_bytes
    assert b"two" == sent(await plane.offered_to(asked[0], "token")).generic_secret.secret.inline_bytes


async def test_what_was_superseded_at_its_canaries_is_never_offered_to_all(plane):
    """Its canaries alone have seen it: nobody knows whether a fleet takes it."""
    await plane.put(OLD, NEW)
    third = authority("Third root")
    await plane.put(OLD, third)
    for_all, asked = await canaries(plane)
    for node in asked:
        await plane.says(node, refused=3)
    await plane.turned()

    assert 1 == for_all
    assert ["rejected", "superseded", "completed"] == await plane.outcome()
    assert {1} == await everybody(plane)


async def test_what_was_superseded_while_all_had_it_is_what_others_keep(plane):
    await plane.put(OLD, NEW)
    _, asked = await canaries(plane)
    for node in asked:
        await plane.says(node, accepted=2)
    await plane.turned()
    for node in FLEET[:3]:
        await plane.says(node, accepted=2)
    await plane.put(OLD, NEW, authority("Third root"))
    for_all, _ = await canaries(plane)

    assert 2 == for_all, "nobody is sent back to the first because one proxy was slow"


async def test_an_operator_takes_back_what_goes_out_and_only_that(plane):
    await plane.put(OLD, NEW)
    what = await payload_roll_outs.roll_back(plane.database, NAME, actor="person:test")
    with pytest.raises(Conflict, match="nothing is being rolled out"):
        await payload_roll_outs.roll_back(plane.database, NAME, actor="person:test")

    assert "person:test took generation 2 back" == what
    assert ["rejected", "completed"] == await plane.outcome()
    assert {1} == await everybody(plane)


async def test_the_first_version_cannot_be_taken_back(issuances):
    plane = Plane(issuances)
    await plane.put(OLD)
    with pytest.raises(Conflict, match="first version"):
        await payload_roll_outs.roll_back(plane.database, NAME, actor="person:test")


async def test_frozen_it_goes_to_nobody_else_until_it_is_resumed(plane):
    await plane.put(OLD, NEW)
    _, asked = await canaries(plane)
    await freezes.freeze(plane.database, NAME, reason="a launch", actor="person:test")
    for node in asked:
        await plane.says(node, accepted=2)
    await plane.turned()
    held = await canaries(plane)
    await freezes.resume(plane.database, NAME, actor="person:test")
    await plane.turned()

    assert (1, asked) == held
    assert {2} == await everybody(plane)


async def test_who_refused_a_bundle_is_offered_it_as_other_bytes_once_time_has_passed(plane, sql):
    """Bytes that were refused are never sent again: a line's end behind the last CA makes others of them."""
    await plane.put(OLD, NEW)
    _, asked = await canaries(plane)
    await plane.says(asked[0], refused=2)
    await plane.turned()
    before = await plane.offered_to(asked[0])
    await turn_clock(sql, timedelta(minutes=1))
    await plane.turned()
    after = await plane.offered_to(asked[0])

    assert before.version != after.version
    cas = [sent(entry).validation_context.trusted_ca.inline_bytes for entry in (before, after)]
    assert cas[0] + b"\n" == cas[1]
    assert (await plane.offered_to(asked[1])).version == before.version


async def test_ticket_keys_and_generic_secrets_have_no_other_bytes(issuances, sql):
    plane = Plane(issuances)
    await plane.service.put("token", GenericSecret(value=b"one"), actor="person:test")
    await plane.says("edge-1", refused=1, name="token")
    await turn_clock(sql, timedelta(minutes=1))
    await plane.turned("token")

    assert 0 == await sql.fetchval("SELECT salt FROM delivery")


async def test_what_was_refused_and_is_put_again_comes_to_who_refused_it_as_other_bytes(plane):
    """Else it would wait for ever: the bytes are those that are never sent to it again."""
    await plane.put(OLD, NEW)
    _, asked = await canaries(plane)
    for node in asked:
        await plane.says(node, refused=2)
    refused = (await plane.offered_to(asked[0])).version
    await plane.turned()
    await plane.put(OLD, NEW)
    for node in set(FLEET) - {*asked}:
        await plane.says(node, accepted=3)
    await plane.turned()
    offered = {node: (await plane.offered_to(node)).version for node in FLEET}

    assert all(offered[node] != refused for node in asked)
