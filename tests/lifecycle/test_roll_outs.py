"""Roll-outs on a real database: canaries first, back in time, and never to what must not be served."""

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta

import pytest

from sds_server.errors import Conflict
from sds_server.inventory import (
    declarations,
    deliveries,
    facts,
    freezes,
    offers,
    progress,
    reports,
    revocations,
    roll_outs,
    rotations,
    targets,
)
from sds_server.inventory.deliveries import News
from sds_server.inventory.reports import Report, Said
from sds_server.inventory.voices import Look
from sds_server.lifecycle.rollout import PATIENCE, SWITCHING, Action, Stage
from sds_server.model import (
    Identity,
    Outcome,
    Peer,
    Proof,
    ProvedBy,
    Reason,
    RevocationReason,
    TargetKind,
)
from tests.support.databases import turn_clock

MESH = Identity("spiffe://example.test/mesh")


@dataclass
class Fleet:
    """Envoys of one Secret, each proved to serve generation 1, while generation 2 is rolled out."""

    issuances: object
    sql: object
    first: object
    second: object = None
    turned: timedelta = timedelta(0)

    @property
    def database(self):
        return self.issuances.database

    async def roll_out(self):
        return await roll_outs.get(self.database, "www")

    async def asked(self):
        """The names of the canaries."""
        roll_out = await self.roll_out()
        return sorted(i.target.name for i in roll_out.live if i.target.id in roll_out.asked)

    async def settle(self, *looks, known=True):
        decision = await roll_outs.settle(
            self.database, await self.roll_out(), looks, known=known, actor="replica:a"
        )
        return decision.action, decision.reason

    async def id(self, name):
        return (await targets.get(self.database, name)).target.id

    async def proves(self, *names):
        return await self.settle(*[Look(await self.id(name), by=ProvedBy.HANDSHAKE) for name in names])

    async def shows_the_one_before(self, *names):
        looks = [
            Look(await self.id(name), error="serves the one before", served=self.first.fingerprint)
            for name in names
        ]
        return await self.settle(*looks)

    async def say(self, name, *, generation=2, identity=None, **news):
        defaults = {"sent": None, "accepted": None, "refused": None, "refusal": None, "refused_version": None}
        item = News(
            identity=identity or Identity(f"spiffe://example.test/{name}"),
            node_id=name,
            secret="www",
            seen_for=timedelta(hours=1),
            **defaults | news,
        )
        await deliveries.write(self.database, [item], actor="replica:a")

    async def refuses(self, name, why="bad key", **more):
        await self.say(name, refused=2, refusal=why, refused_version="v2", **more)

    async def accepts(self, name, **more):
        await self.say(name, accepted=2, **more)

    async def turn(self, forward):
        self.turned += forward
        await turn_clock(self.sql, self.turned)

    async def offer(self):
        return (await offers.of(self.database, ["www"]))["www"]

    async def rotation(self):
        return await progress.latest(self.database, "www")

    async def evidence(self):
        return json.loads(
            await self.sql.fetchval("SELECT evidence FROM certrotation ORDER BY id DESC LIMIT 1")
        )

    async def statuses(self):
        rows = await self.sql.fetch("SELECT status FROM certificate ORDER BY generation")
        return [row["status"] for row in rows]


@pytest.fixture
def fleet(issuances, sql):
    async def start(*names, identity=None, proof=None, probe="127.0.0.1:1", days=90):
        declared = await issuances.declare()
        if proof is not None:
            await sql.execute("UPDATE secret SET proof = $1", str(proof))
        first = await issuances.store(await issuances.claim(), declared, days=days)
        made = Fleet(issuances, sql, first)
        for name in names:
            await made.say(name, accepted=1, identity=identity)
            if probe:
                await sql.execute("UPDATE target SET probe = $1", probe)
        if probe:
            assert Action.COMPLETE is (await made.proves(*names))[0]
        else:
            await made.settle()
        await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
        made.second = await issuances.issue(declared)
        return made

    return start


async def test_a_new_certificate_goes_to_a_canary_and_all_others_keep_the_one_before(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    (canary,) = await fleet.asked()
    offer = await fleet.offer()

    assert Stage.CANARY is (await fleet.roll_out()).stage
    assert (fleet.second.id, fleet.first.id) == (offer.cert_id, offer.before)
    assert {Peer(Identity(f"spiffe://example.test/{canary}"), canary)} == offer.canaries


async def test_the_only_target_there_is_gets_it_at_once(fleet):
    offer = await (await fleet("edge-1")).offer()

    assert not offer.staged


async def test_what_the_canary_is_proved_to_serve_goes_to_all(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    canary = await fleet.asked()

    assert (Action.FAN_OUT, "canaries-proved") == await fleet.proves(*canary)
    assert not (await fleet.offer()).staged
    others = {"edge-1", "edge-2", "edge-3"} - set(canary)
    assert (Action.COMPLETE, "all") == await fleet.proves(*others)


async def test_many_are_judged_beside_the_streams_and_to_the_same_end(fleet, monkeypatch):
    judged = []
    apart = asyncio.to_thread

    async def in_a_thread(work, *arguments):
        judged.append(work.__name__)
        return await apart(work, *arguments)

    monkeypatch.setattr(targets, "MANY", 2)
    monkeypatch.setattr(asyncio, "to_thread", in_a_thread)
    fleet = await fleet("edge-1", "edge-2", "edge-3")

    await fleet.proves(*await fleet.asked())
    ended = await fleet.proves("edge-1", "edge-2", "edge-3")

    assert (Action.COMPLETE, "all") == ended
    assert {"_lives", "decide"} == set(judged)


async def test_a_refusing_canary_and_a_second_one_take_it_back(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    (first,) = await fleet.asked()
    await fleet.refuses(first, "key mismatch")
    asked_more = await fleet.settle()
    (second,) = set(await fleet.asked()) - {first}
    await fleet.refuses(second, "key mismatch too")
    taken_back = await fleet.settle()
    rotation = await fleet.rotation()

    assert (Action.ASK_MORE, "canary-refused") == asked_more
    assert (Action.ROLL_BACK, "canaries-refused") == taken_back
    assert ["expiring_soon", "rejected"] == await fleet.statuses()
    assert (fleet.first.id, None) == ((await fleet.offer()).cert_id, (await fleet.offer()).before)
    assert rotation.outcome is None
    assert "canaries-refused" == rotation.last_error["rule"]
    for words in (f"{first}: key mismatch", f"{second}: key mismatch too"):
        assert words in rotation.last_error["what"]


async def test_one_hostile_identity_vetoes_nobodys_renewal(fleet):
    """However many nodes it says it is."""
    fleet = await fleet("a", "b", "c", "d", "e", "f", identity=MESH)
    await fleet.say("edge", accepted=1)
    for name in "abcdef":
        await fleet.refuses(name, identity=MESH)
    steps = [await fleet.settle() for _ in range(6)]

    assert Action.ROLL_BACK not in {action for action, _ in steps}
    assert "edge" in await fleet.asked()


async def test_after_the_canary_one_refusal_is_isolated_and_a_second_takes_it_back(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    canary = await fleet.asked()
    await fleet.proves(*canary)
    one, two = sorted({"edge-1", "edge-2", "edge-3"} - set(canary))
    await fleet.refuses(one)
    isolated = await fleet.settle()
    await fleet.refuses(two)

    assert (Action.WAIT, "targets") == isolated
    assert (Action.ROLL_BACK, "targets-refused") == await fleet.settle()


async def test_a_single_target_that_refuses_goes_back_to_the_one_before(fleet):
    fleet = await fleet("edge-1")
    await fleet.refuses("edge-1")

    assert (Action.ROLL_BACK, "targets-refused") == await fleet.settle()


async def test_who_accepts_and_serves_the_one_before_is_offered_other_bytes_and_then_counts_as_refusing(
    fleet,
):
    fleet = await fleet("edge-1")
    await fleet.accepts("edge-1")
    at_once = await fleet.shows_the_one_before("edge-1")
    salted_at_once = (await fleet.offer()).salted
    await fleet.turn(SWITCHING)
    offered_again = await fleet.shows_the_one_before("edge-1")
    salted = (await fleet.offer()).salted
    await fleet.accepts("edge-1")
    await fleet.turn(SWITCHING)

    assert (Action.WAIT, "targets") == at_once == offered_again[:2] or offered_again[0] is Action.ROLL_BACK
    assert {} == salted_at_once
    assert [1] == list(salted.values())
    assert (Action.ROLL_BACK, "targets-refused") == await fleet.shows_the_one_before("edge-1")


async def test_why_it_was_not_proved_is_forgotten_with_what_is_taken_back(fleet):
    """Else who serves the one before, as it should, would be said not to be seen."""
    fleet = await fleet("edge-1")
    await fleet.settle(Look(await fleet.id("edge-1"), error="Connection refused"))
    await fleet.refuses("edge-1")
    taken_back = await fleet.settle()
    (live,) = await targets.live_set(fleet.database, "www")

    assert Action.ROLL_BACK is taken_back[0]
    assert (1, None) == (live.proved, live.probe_error)


async def test_an_unreachable_probe_never_takes_anything_back(fleet):
    fleet = await fleet("edge-1", "edge-2")
    for name in ("edge-1", "edge-2"):
        await fleet.accepts(name)
    await fleet.turn(timedelta(minutes=50))
    looks = [Look(await fleet.id(name), error="Connection refused") for name in ("edge-1", "edge-2")]
    steps = {(await fleet.settle(*looks))[0] for _ in range(5)}

    assert steps <= {Action.WAIT, Action.ASK_MORE}
    assert ["rotating", "issued"] == await fleet.statuses()


async def test_nothing_is_taken_back_of_a_secret_that_is_removed(fleet):
    made = await fleet("edge-1", "edge-2")
    await declarations.remove(made.database, "www", actor="person:test")

    assert not await roll_outs.reject(
        made.database, "www", made.second.id, error={"what": "no", "rule": "names"}, actor="replica:a"
    )


async def test_a_silent_canary_is_passed_over(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    (silent,) = await fleet.asked()
    at_first = await fleet.settle()
    await fleet.turn(PATIENCE)
    asked_more = await fleet.settle()
    (second,) = set(await fleet.asked()) - {silent}

    assert (Action.WAIT, "canaries") == at_first
    assert (Action.ASK_MORE, "canary-silent") == asked_more
    assert (Action.FAN_OUT, "canaries-proved") == await fleet.proves(second)


async def test_an_expired_one_is_never_gone_back_to(fleet):
    fleet = await fleet("edge-1", days=1)
    await fleet.turn(timedelta(days=2))
    await fleet.refuses("edge-1")

    assert (Action.WAIT, "no-way-back") == await fleet.settle()
    with pytest.raises(Conflict, match="has expired"):
        await roll_outs.roll_back(fleet.database, "www", actor="person:test")


@pytest.mark.parametrize(
    ("reason", "at_once"), [(RevocationReason.KEY_COMPROMISE, False), (RevocationReason.SUPERSEDED, True)]
)
async def test_a_compromised_or_revoked_one_is_never_gone_back_to(fleet, reason, at_once):
    fleet = await fleet("edge-1")
    await revocations.request(
        fleet.database, "www", generation=1, reason=reason, at_once=at_once, actor="person:test"
    )
    await fleet.refuses("edge-1")

    assert (Action.WAIT, "no-way-back") == await fleet.settle()


async def test_past_the_floor_a_person_decides_and_can_go_on(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3", days=10)
    await fleet.turn(timedelta(days=9))
    for name in ("edge-1", "edge-2", "edge-3"):
        await fleet.say(name)
        await fleet.refuses(name)
    steps = [await fleet.settle() for _ in range(3)]
    frozen = await freezes.of(fleet.database, "www")
    held = await fleet.settle()
    await freezes.resume(fleet.database, "www", actor="person:test")
    after = await fleet.settle()

    assert Action.ASK_OPERATOR in {action for action, _ in steps}
    assert "replica:a" == frozen.by
    assert "certvoy resume www" in frozen.reason
    assert "certvoy rollback www" in frozen.reason
    assert (Action.WAIT, "frozen") == held
    assert (Action.FAN_OUT, "overruled") == after


async def test_frozen_nothing_moves_until_it_is_resumed(fleet):
    fleet = await fleet("edge-1", "edge-2")
    await freezes.freeze(fleet.database, "www", reason="a launch", actor="person:test")
    canary = await fleet.asked()
    held = await fleet.proves(*canary)
    await freezes.resume(fleet.database, "www", actor="person:test")

    assert (Action.WAIT, "frozen") == held
    assert (Action.FAN_OUT, "canaries-proved") == await fleet.settle()


async def test_a_frozen_secret_gets_no_worker(issuances):
    await issuances.declare()
    await freezes.freeze(issuances.database, "www", reason="a launch", actor="person:test")
    frozen = await rotations.claim(issuances.database, replica="a", lease_for=timedelta(minutes=1))
    await freezes.resume(issuances.database, "www", actor="person:test")

    assert frozen is None
    assert await rotations.claim(issuances.database, replica="a", lease_for=timedelta(minutes=1)) is not None


async def test_what_is_not_frozen_is_not_resumed(issuances):
    await issuances.declare()

    with pytest.raises(Conflict, match="it is not frozen"):
        await freezes.resume(issuances.database, "www", actor="person:test")


async def test_an_operator_takes_a_roll_out_back(fleet):
    fleet = await fleet("edge-1")
    rotation = await roll_outs.roll_back(fleet.database, "www", actor="person:test")

    assert ["expiring_soon", "rejected"] == await fleet.statuses()
    assert (await fleet.rotation()).id == rotation
    assert "operator" == (await fleet.rotation()).last_error["rule"]
    with pytest.raises(Conflict, match="nothing is being rolled out"):
        await roll_outs.roll_back(fleet.database, "www", actor="person:test")


async def test_a_quorum_completes_and_says_who_is_missing(fleet):
    fleet = await fleet("edge-1", "edge-2", "edge-3", proof=Proof(percent=60))
    await fleet.proves(*await fleet.asked())
    await fleet.proves("edge-1", "edge-2")
    rotation = await fleet.rotation()
    evidence = await fleet.evidence()

    assert Outcome.COMPLETED == rotation.outcome
    assert {"60%", 3} == {evidence["policy"], evidence["targets"]}
    assert 2 <= evidence["proved"]["handshake"]


async def test_where_nobody_can_look_an_acceptance_is_enough_if_the_policy_says_so(fleet):
    fleet = await fleet("edge-1", probe=None, proof=Proof(accepted=True))
    waiting = await fleet.settle()
    await fleet.accepts("edge-1")
    completed = await fleet.settle()
    evidence = await fleet.evidence()

    assert (Action.WAIT, "targets") == waiting
    assert (Action.COMPLETE, "all") == completed
    assert {"policy": "accepted", "targets": 1, "proved": {}, "accepted": 1, "unproved": []} == evidence


async def test_an_acceptance_of_who_can_be_looked_at_is_never_enough(fleet):
    fleet = await fleet("edge-1", proof=Proof(accepted=True))
    await fleet.accepts("edge-1")

    assert (Action.WAIT, "targets") == await fleet.settle()


async def test_of_one_generation_what_was_said_last_counts(fleet):
    """Other bytes of the same certificate may be taken, or refused, after all."""
    fleet = await fleet("edge-1", "edge-2")
    told = []
    for say in (fleet.accepts, fleet.refuses, fleet.accepts):
        await say("edge-1")
        (live,) = [i for i in await targets.live_set(fleet.database, "www") if i.target.name == "edge-1"]
        told.append((live.accepted, live.refused))

    assert [(2, None), (None, 2), (2, None)] == told


async def test_while_canaries_have_it_another_rotation_takes_it_from_them(fleet):
    """All others are moved on from what they have, the one before."""
    fleet = await fleet("edge-1", "edge-2")
    await rotations.open_for(fleet.database, "www", reason=Reason.OPERATOR, actor="person:test")
    third = await fleet.issuances.issue(await fleet.issuances.declare())
    offer = await fleet.offer()

    assert ["rotating", "rejected", "issued"] == await fleet.statuses()
    assert (third.id, fleet.first.id) == (offer.cert_id, offer.before)


async def test_two_replicas_look_at_different_roll_outs(issuances):
    for number in range(4):
        await issuances.issue(await issuances.declare(f"s{number}", [f"s{number}.example.test"]))
    every = timedelta(minutes=1)
    found = await asyncio.gather(
        *(roll_outs.claim(issuances.database, every=every, limit=2) for _ in range(2))
    )

    assert ["s0", "s1", "s2", "s3"] == sorted(name for names in found for name in names)
    assert [] == list(await roll_outs.claim(issuances.database, every=every, limit=2))


async def test_who_could_not_be_seen_counts_for_longer(fleet):
    """A control plane that was cut off has not an empty set, but an unknown one."""
    fleet = await fleet("edge-1")
    await fleet.turn(timedelta(hours=2))
    unseen = await roll_outs.get(fleet.database, "www")
    blind = await roll_outs.get(fleet.database, "www", grace=timedelta(hours=3))

    assert [] == list(unseen.live)
    assert ["edge-1"] == [item.target.name for item in blind.live]


async def test_what_is_issued_while_it_is_frozen_is_offered_to_nobody_before_it_is_resumed(fleet, issuances):
    """The order was under way when somebody froze it."""
    fleet = await fleet("edge-1")
    await roll_outs.roll_back(fleet.database, "www", actor="person:test")
    await fleet.turn(timedelta(minutes=5))
    claim = await issuances.claim()
    await freezes.freeze(fleet.database, "www", reason="a launch", actor="person:test")
    third = await issuances.store(claim, await issuances.declare())
    held = await fleet.offer()
    await freezes.resume(fleet.database, "www", actor="person:test")
    asked = await fleet.settle()

    assert (third.id, fleet.first.id, frozenset()) == (held.cert_id, held.before, held.canaries)
    assert Action.ASK_MORE is asked[0]
    assert ["edge-1"] == await fleet.asked()
    assert (Action.COMPLETE, "all") == await fleet.proves("edge-1")


async def test_who_is_isolated_is_offered_other_bytes_less_and_less_often(fleet):
    """What made it refuse may have been mended; the same bytes again it would take unseen."""
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    canary = await fleet.asked()
    await fleet.proves(*canary)
    one, two = sorted({"edge-1", "edge-2", "edge-3"} - set(canary))
    await fleet.proves(two)
    await fleet.refuses(one)
    salts = []
    for pause in (0, 29, 2, 40, 21):
        await fleet.turn(timedelta(seconds=pause))
        await fleet.settle()
        salts.append(sum((await fleet.offer()).salted.values()))
    await fleet.accepts(one)

    assert [0, 0, 1, 1, 2] == salts
    assert (Action.COMPLETE, "all") == await fleet.proves(one)


async def test_who_refused_keeps_the_bytes_that_it_took_after_it_is_proved(fleet):
    """Else a proxy that starts anew would be offered those that it refused: it would get nothing at all."""
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    canary = await fleet.asked()
    await fleet.proves(*canary)
    one, two = sorted({"edge-1", "edge-2", "edge-3"} - set(canary))
    await fleet.refuses(one)
    await fleet.settle()
    await fleet.turn(timedelta(seconds=31))
    await fleet.settle()
    salted = (await fleet.offer()).salted
    await fleet.accepts(one)
    await fleet.proves(one, two)

    assert Outcome.COMPLETED == (await fleet.rotation()).outcome
    assert [1] == list(salted.values())
    assert salted == (await fleet.offer()).salted


async def test_while_it_rolls_out_the_one_before_is_left_for_who_refused(fleet, sql):
    """Unless it may not be served any more."""
    fleet = await fleet("edge-1")
    left = (await fleet.offer()).before
    await revocations.request(
        fleet.database,
        "www",
        generation=1,
        reason=RevocationReason.KEY_COMPROMISE,
        at_once=False,
        actor="person:test",
    )

    assert fleet.first.id == left
    assert (await fleet.offer()).before is None


async def test_frozen_by_us_it_goes_on_when_there_is_nothing_to_go_back_to_any_more(fleet):
    """The question has been answered by time; held, all would be left with what has expired."""
    fleet = await fleet("edge-1", "edge-2", days=10)
    await fleet.turn(timedelta(days=9))
    for name in ("edge-1", "edge-2"):
        await fleet.refuses(name)
    steps = [await fleet.settle() for _ in range(3)]
    asked = await freezes.of(fleet.database, "www")
    await fleet.turn(timedelta(days=2))
    await fleet.say("edge-1")
    after = await fleet.settle()

    assert Action.ASK_OPERATOR in {action for action, _ in steps}
    assert asked.asks
    assert (Action.FAN_OUT, "no-way-back") == after
    assert await freezes.of(fleet.database, "www") is None
    assert fleet.second.id == (await fleet.offer()).cert_id


async def test_an_operators_freeze_is_ended_by_nobody_else(fleet):
    fleet = await fleet("edge-1", "edge-2", days=1)
    await freezes.freeze(fleet.database, "www", reason="a launch", actor="person:test")
    await fleet.turn(timedelta(days=2))

    assert (Action.WAIT, "frozen") == await fleet.settle()
    assert not (await fleet.offer()).staged  # what has expired is offered to nobody


async def test_while_a_freeze_holds_canaries_all_are_said_to_have_what_they_are_offered(fleet, sql):
    """Held with a Certificate before that has expired: all are offered the new one, and nobody waits."""
    fleet = await fleet("edge-1", "edge-2", "edge-3", days=1)
    (canary,) = await fleet.asked()
    (other, _) = sorted({"edge-1", "edge-2", "edge-3"} - {canary})
    await freezes.freeze(fleet.database, "www", reason="a launch", actor="person:test")
    before = {item.target.name: (item.current, item.waits) for item in (await fleet.roll_out()).live}
    await fleet.turn(timedelta(days=2))
    await fleet.say(other, accepted=2)

    reported = await reports.write(
        fleet.database,
        Report(
            secret="www",
            target=other,
            identity=None,
            kind=TargetKind.NGINX,
            said=Said.ACCEPTED,
            generation=2,
            fingerprints=[fleet.second.fingerprint],
            refusal=None,
            address=None,
        ),
        seen_for=timedelta(hours=1),
        actor="token:test",
    )
    (held,) = (await targets.get(fleet.database, other)).holds
    await sql.execute("UPDATE census SET due_at = '-infinity'")
    counted = (await facts.read(fleet.database)).deliveries

    assert (2, False) == before[canary]
    assert (1, True) == before[other]
    assert (2, False) == (reported.current, reported.waits)
    assert (2, False) == (held.delivery.current, held.delivery.waits)
    assert "waiting" not in counted


async def test_what_is_frozen_opens_no_renewal(fleet):
    """It would take from the canaries what they have."""
    fleet = await fleet("edge-1", "edge-2")
    await freezes.freeze(fleet.database, "www", reason="a launch", actor="person:test")
    await fleet.turn(timedelta(days=80))

    assert 0 == await rotations.open_due(fleet.database, limit=10, actor="replica:a")
    assert ["rotating", "issued"] == await fleet.statuses()


async def test_nothing_is_taken_from_canaries_where_all_others_have_what_has_expired(fleet):
    fleet = await fleet("edge-1", "edge-2", days=1)
    await fleet.turn(timedelta(days=2))
    await rotations.open_for(fleet.database, "www", reason=Reason.OPERATOR, actor="person:test")

    assert "rejected" not in await fleet.statuses()
    assert fleet.second.id == (await fleet.offer()).cert_id


async def test_who_was_bound_to_a_registered_name_has_no_voice_of_its_own(fleet):
    """Anybody may call itself so; an identity that an operator named is another matter."""
    fleet = await fleet("edge-1", "edge-2", identity=MESH)
    await targets.register(
        fleet.database, "edge-1", probe=None, identity=None, node_id=None, serves=[], actor="p"
    )
    await targets.register(
        fleet.database, "edge-2", probe=None, identity=MESH, node_id="edge-2", serves=[], actor="p"
    )
    live = {item.target.name: item.target for item in (await fleet.roll_out()).live}

    assert (True, False) == (live["edge-1"].registered, live["edge-1"].vouched)
    assert (True, True) == (live["edge-2"].registered, live["edge-2"].vouched)


async def test_what_was_proved_of_a_certificate_that_was_taken_back_counts_no_more(fleet):
    """Else only those that refused it would be witnesses of the one before."""
    fleet = await fleet("edge-1", "edge-2", "edge-3")
    await fleet.proves(*await fleet.asked())
    await fleet.proves("edge-1")
    await roll_outs.roll_back(fleet.database, "www", actor="person:test")
    proved = {i.target.name: i.proved for i in await targets.live_set(fleet.database, "www")}

    assert 2 not in proved.values()


async def test_at_another_address_nothing_is_proved(fleet):
    fleet = await fleet("edge-1", "edge-2")
    for name, address in (("edge-1", "127.0.0.1:2"), ("edge-2", "127.0.0.1:1")):
        await targets.register(
            fleet.database, name, probe=address, identity=None, node_id=None, serves=[], actor="p"
        )
    proved = {i.target.name: i.proved for i in await targets.live_set(fleet.database, "www")}

    assert {"edge-1": None, "edge-2": 1} == proved


async def test_pods_that_are_gone_are_forgotten_and_take_no_place(fleet, monkeypatch):
    monkeypatch.setattr(deliveries, "SEEN_TARGETS_PER_IDENTITY", 2)
    fleet = await fleet("old-1", "old-2", identity=MESH)
    news = News(MESH, "new-1", "www", 1, 1, None, None, None, timedelta(hours=1))
    full = await deliveries.write(fleet.database, [news], actor="r")
    await fleet.turn(timedelta(days=2))
    room = await deliveries.write(fleet.database, [news], actor="r")
    kept = await targets.sweep(fleet.database, limit=10, actor="r")
    await fleet.turn(timedelta(days=6))
    forgotten = await targets.sweep(fleet.database, limit=10, actor="r")

    assert (frozenset({MESH}), frozenset()) == (full.capped, room.capped)
    assert (0, 2) == (kept, forgotten)
