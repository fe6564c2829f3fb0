"""What a roll-out does next: the table of refusals, row by row, and what no words can bring about."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds_server.lifecycle.rollout import (
    CANARIES_MAX,
    PATIENCE,
    Action,
    Situation,
    Stage,
    Standing,
    Voice,
    WayBack,
    decide,
    first_canaries,
    pause,
)
from sds_server.model import Proof, TargetId

PROVED, ACCEPTED, REFUSED = Standing.PROVED, Standing.ACCEPTED, Standing.REFUSED
DIFFERENT, SILENT = Standing.DIFFERENT, Standing.SILENT
JUST, LONG = timedelta(seconds=1), PATIENCE + timedelta(seconds=1)


def voice(number, standing=SILENT, *, speaker=None, witness=True, asked=None):
    return Voice(TargetId(number), speaker or f"target:{number}", standing, witness, asked)


def fleet(*standings, first=1):
    return [voice(number, standing) for number, standing in enumerate(standings, first)]


def situation(stage, voices, **more):
    given = {"proof": Proof(), "way_back": WayBack.OPEN, "known": True}
    return Situation(stage=stage, voices=voices, **given | more)


def canary(voices, **more):
    decision = decide(situation(Stage.CANARY, voices, **more))
    return decision.action, decision.reason, decision.targets


def whole(voices, **more):
    decision = decide(situation(Stage.FLEET, voices, **more))
    return decision.action, decision.reason, decision.targets


# Who is asked first


def test_a_fleet_of_one_has_no_canary():
    assert () == first_canaries(fleet(SILENT), [1])


def test_where_nobody_is_known_to_serve_the_one_before_there_is_no_canary():
    """Its word about the new one would tell nothing."""
    assert () == first_canaries([voice(n, witness=False) for n in range(9)], range(9))


@pytest.mark.parametrize(("size", "count"), [(2, 1), (3, 1), (4, 2), (40, 2), (100, 5), (5000, CANARIES_MAX)])
def test_a_share_of_the_fleet_is_asked_first(size, count):
    assert count == len(first_canaries(fleet(*[SILENT] * size), range(1, size + 1)))


def test_canaries_have_voices_of_their_own_where_there_are_several():
    voices = [*(voice(n, speaker="one") for n in range(1, 5)), voice(5, speaker="two")]

    assert (1, 5) == first_canaries(voices, [1, 2, 3, 4, 5])


def test_who_is_not_known_to_serve_the_one_before_is_no_first_canary():
    voices = [voice(1, witness=False), voice(2), voice(3), voice(4, witness=False)]

    assert (3, 2) == first_canaries(voices, [1, 3, 4, 2])


# The canary stage


def test_proved_canaries_let_it_go_to_all():
    assert (Action.FAN_OUT, "canaries-proved", (1,)) == canary([voice(1, PROVED, asked=JUST), voice(2)])


def test_an_acceptance_of_a_canary_that_can_be_looked_at_is_waited_on():
    assert (Action.WAIT, "canaries", (1,)) == canary([voice(1, SILENT, asked=JUST), voice(2)])


def test_an_acceptance_is_enough_only_where_the_policy_says_so():
    voices = [voice(1, ACCEPTED, asked=JUST), voice(2)]

    assert Action.WAIT is canary(voices)[0]
    assert Action.FAN_OUT is canary(voices, proof=Proof(accepted=True))[0]


@pytest.mark.parametrize("no", [REFUSED, DIFFERENT])
def test_one_refusal_asks_a_second_voice(no):
    assert (Action.ASK_MORE, "canary-refused", (2,)) == canary([voice(1, no, asked=JUST), voice(2), voice(3)])


@pytest.mark.parametrize("no", [REFUSED, DIFFERENT])
def test_two_refusing_voices_take_it_back(no):
    voices = [voice(1, no, asked=JUST), voice(2, REFUSED, asked=JUST), voice(3)]

    assert (Action.ROLL_BACK, "canaries-refused", (1, 2)) == canary(voices)


def test_one_hostile_identity_with_many_nodes_has_one_voice():
    voices = [voice(n, REFUSED, speaker="hostile", asked=JUST) for n in range(1, 9)]

    assert (Action.ASK_MORE, "canary-refused", (9,)) == canary([*voices, voice(9)])


def test_a_hostile_canary_is_outvoted():
    voices = [voice(1, REFUSED, asked=JUST), voice(2, PROVED, asked=JUST), voice(3, PROVED, asked=JUST)]

    assert (Action.FAN_OUT, "canaries-proved", (2, 3)) == canary([*voices, voice(4)])


def test_where_one_said_yes_and_one_no_and_nobody_else_is_there_the_no_is_no_veto():
    voices = [voice(1, REFUSED, asked=JUST), voice(2, PROVED, asked=JUST)]

    assert (
        Action.FAN_OUT,
        "canaries-divided",
        (),
    ) == canary(voices)


def test_a_silent_canary_is_passed_over_and_takes_nothing_back():
    assert (Action.ASK_MORE, "canary-silent", (2,)) == canary([voice(1, asked=LONG), voice(2)])
    assert (Action.WAIT, "canaries", (1,)) == canary([voice(1, asked=LONG)])


def test_who_is_known_to_serve_the_one_before_is_asked_before_others():
    voices = [voice(1, asked=LONG), voice(2, witness=False), voice(3)]

    assert (Action.ASK_MORE, "canary-silent", (3,)) == canary(voices)


def test_near_the_end_silence_holds_nothing_up():
    assert (Action.FAN_OUT, "end-nears", ()) == canary([voice(1, asked=LONG)], way_back=WayBack.NEARING_END)


def test_near_the_end_a_refusal_asks_the_operator():
    voices = [voice(1, REFUSED, asked=JUST), voice(2, REFUSED, asked=JUST)]

    assert (Action.ASK_OPERATOR, "canaries-refused", (1, 2)) == canary(voices, way_back=WayBack.NEARING_END)


def test_where_all_canaries_are_gone_others_are_asked():
    assert (Action.ASK_MORE, "canary-silent", (1,)) == canary(fleet(SILENT))
    assert (Action.FAN_OUT, "nobody-to-ask", ()) == canary([])


def test_without_a_way_back_there_is_nothing_to_wait_for():
    """Expired, revoked, compromised: that is never gone back to."""
    voices = [voice(1, REFUSED, asked=JUST), voice(2, REFUSED, asked=JUST)]

    assert (Action.FAN_OUT, "no-way-back", ()) == canary(voices, way_back=WayBack.NONE)


def test_an_operator_can_overrule_refusals():
    voices = [voice(1, REFUSED, asked=JUST), voice(2, REFUSED, asked=JUST)]

    assert (Action.FAN_OUT, "overruled", ()) == canary(voices, overruled=True)
    assert Action.WAIT is whole(voices, overruled=True)[0]


# The whole fleet


def test_complete_is_what_everybody_is_proved_to_serve():
    assert (Action.COMPLETE, "all", ()) == whole(fleet(PROVED, PROVED))
    assert (Action.WAIT, "targets", (2,)) == whole(fleet(PROVED, SILENT))


def test_a_single_target_that_refuses_takes_it_back():
    assert (Action.ROLL_BACK, "targets-refused", (1,)) == whole(fleet(REFUSED))


def test_one_refusal_in_a_fleet_is_isolated_and_named():
    assert (Action.WAIT, "targets", (3,)) == whole(fleet(PROVED, PROVED, REFUSED))


def test_two_refusals_in_a_small_fleet_take_it_back():
    assert (Action.ROLL_BACK, "targets-refused", (1, 3)) == whole(fleet(REFUSED, PROVED, DIFFERENT))


def test_in_a_large_fleet_a_twentieth_must_refuse():
    assert Action.WAIT is whole(fleet(*[REFUSED] * 4, *[PROVED] * 96))[0]
    assert Action.ROLL_BACK is whole(fleet(*[REFUSED] * 5, *[PROVED] * 95))[0]


def test_no_rollback_to_what_must_not_be_served():
    assert (Action.WAIT, "no-way-back", (1,)) == whole(fleet(REFUSED), way_back=WayBack.NONE)
    assert Action.ASK_OPERATOR is whole(fleet(REFUSED), way_back=WayBack.NEARING_END)[0]


def test_what_was_frozen_stays_as_it_is():
    for voices in (fleet(PROVED), fleet(REFUSED)):
        assert (Action.WAIT, "frozen", ()) == whole(voices, frozen=True)
        assert (Action.WAIT, "frozen", ()) == canary(voices, frozen=True)


def test_a_quorum_completes_without_the_last():
    voices = fleet(*[PROVED] * 9, SILENT)

    assert (Action.COMPLETE, "quorum", ()) == whole(voices, proof=Proof(percent=90))
    assert Action.WAIT is whole(voices, proof=Proof(percent=91))[0]


def test_an_empty_live_set_is_believed_only_once_it_is_known():
    assert (Action.COMPLETE_UNOBSERVED, "no-target", ()) == whole([])
    assert (Action.WAIT, "live-set-unknown", ()) == whole([], known=False)


def test_a_rotation_whose_certificate_was_rejected_waits_longer_each_time():
    """Each cost the CA an order, and five a week of one set of names are all that Let's Encrypt gives."""
    assert [1, 10, 100, 1440] == [pause(n) / timedelta(minutes=1) for n in range(1, 5)]


# Fleets that share an identity


def shared(*standings, speaker="mesh", first=1, asked=None):
    return [voice(n, standing, speaker=speaker, asked=asked) for n, standing in enumerate(standings, first)]


def test_where_all_share_an_identity_one_broken_pod_vetoes_nothing():
    assert Action.WAIT is whole(shared(*[PROVED] * 99, REFUSED))[0]
    assert Action.ROLL_BACK is whole(shared(*[PROVED] * 95, *[REFUSED] * 5))[0]


def test_where_two_identities_share_a_fleet_each_says_what_more_of_its_own_say():
    one, two = shared(*[PROVED] * 49, REFUSED), shared(*[PROVED] * 49, REFUSED, speaker="edge", first=100)

    assert Action.WAIT is whole([*one, *two])[0]


def test_canaries_that_share_an_identity_are_counted():
    """What most of them refuse goes back, and is not handed on to one after the other."""
    assert Action.ROLL_BACK is canary(shared(*[REFUSED] * 19, PROVED, asked=JUST))[0]
    assert Action.ASK_MORE is canary([*shared(REFUSED, asked=JUST), *shared(SILENT, SILENT, first=5)])[0]


def test_refusals_are_judged_before_a_quorum():
    assert Action.ROLL_BACK is whole(fleet(*[PROVED] * 90, *[REFUSED] * 10), proof=Proof(percent=90))[0]


def test_a_quorum_is_not_reached_by_nodes_that_one_identity_has_made_up():
    honest = fleet(*[SILENT] * 50)
    made_up = shared(*[PROVED] * 950, speaker="liar", first=1000)

    assert Action.WAIT is whole([*honest, *made_up], proof=Proof(percent=90))[0]


# Whatever is said


voices = st.lists(
    st.builds(
        Voice,
        target=st.integers(1, 1000).map(TargetId),
        speaker=st.sampled_from("abcdefgh"),
        standing=st.sampled_from(Standing),
        witness=st.booleans(),
        asked_for=st.none() | st.sampled_from([JUST, LONG]),
    ),
    max_size=20,
    unique_by=lambda item: item.target,
)
situations = st.builds(
    Situation,
    stage=st.sampled_from(Stage),
    voices=voices,
    proof=st.sampled_from([Proof(), Proof(accepted=True), Proof(percent=60)]),
    way_back=st.sampled_from(WayBack),
    known=st.booleans(),
    frozen=st.booleans(),
    overruled=st.booleans(),
)


def speakers(items):
    return {item.speaker for item in items}


@given(situations)
def test_nothing_goes_back_without_a_way_or_for_a_single_voice_of_several(given):
    decision = decide(given)
    refusing = [item for item in given.voices if item.standing in {REFUSED, DIFFERENT}]

    if decision.action in {Action.ROLL_BACK, Action.ASK_OPERATOR}:
        assert WayBack.NONE is not given.way_back
        several = len(speakers(given.voices)) > 1
        assert min(2, len(given.voices)) <= len(speakers(refusing) if several else refusing)
        assert set(decision.targets) <= {item.target for item in refusing}


@given(situations)
def test_nothing_completes_that_is_not_proved_as_the_policy_wants(given):
    enough = {PROVED, ACCEPTED} if given.proof.accepted else {PROVED}
    done = sum(item.standing in enough for item in given.voices)

    if decide(given).action is Action.COMPLETE:
        assert given.stage is Stage.FLEET
        assert done * 100 >= given.proof.percent * len(given.voices)
        assert given.voices


@given(situations)
def test_more_canaries_are_only_targets_that_were_not_asked(given):
    decision = decide(given)

    if decision.action is Action.ASK_MORE:
        assert set(decision.targets) <= {item.target for item in given.voices if item.asked_for is None}
        assert decision.targets


@pytest.mark.parametrize("text", ["all", "accepted", "90%", "1%"])
def test_a_policy_is_written_as_it_is_read(text):
    assert text == str(Proof.parse(text))


@pytest.mark.parametrize("text", ["", "0%", "100%", "90", "most", "90%%", "-5%"])
def test_a_policy_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must be all, accepted or a share"):
        Proof.parse(text)
