"""Pushes, refusals and time: the rules that both variants share."""

import random

import pytest

from sds_server.xds.catalog import ABSENT, Resource
from sds_server.xds.stream import (
    CLOSE_UNANSWERED_S,
    MAX_ABANDONED,
    MAX_NAMES,
    REFRESH_JITTER,
    REFRESH_S,
    WARN_UNANSWERED_S,
    Ignored,
    Refused,
    Request,
    Stream,
    Subscribed,
    Unsubscribed,
)
from tests.xds.transcript import play, resource


@pytest.fixture(params=["sotw", "delta"])
def both(request):
    """Play a transcript in one of the variants; ``{a}`` names a again where the variant must."""
    delta = request.param == "delta"

    def run(text, **options):
        play(
            text.format(subscribe_a="> +a" if delta else "> a", a="" if delta else " a"),
            delta=delta,
            **options,
        )

    return run


def test_an_unanswered_name_waits_and_bursts_coalesce_to_the_newest(both):
    both("""
        ! a@v1
        {subscribe_a}
        < 1 a@v1
        ! a@v2
        ! a@v3
        > ack 1{a}
        = accepted a@v1
        < 2 a@v3
    """)


def test_refused_content_is_not_sent_again_and_the_last_good_is_pushed_back_once(both):
    """A refused Secret poisons Envoy's provider until good content comes."""
    both("""
        ! a@v1
        {subscribe_a}
        < 1 a@v1
        > ack 1{a}
        = accepted a@v1
        ! a@v2
        < 2 a@v2
        > nack 2{a}
        = refused a@v2
        < 3 a@v1
        > ack 3{a}
        = accepted a@v1
        ! a@v1
        ! a@v2
        wait 60
        ! a@v3
        < 4 a@v3
    """)


def test_refused_content_without_a_good_one_is_silence(both):
    both("""
        ! a@v1
        {subscribe_a}
        < 1 a@v1
        > nack 1{a}
        = refused a@v1
        wait 1200
        ! a@v2
        < 2 a@v2
    """)


def test_content_refused_on_an_earlier_stream_is_not_sent(both):
    both(
        """
        ! a@v2
        {subscribe_a}
        ! a@v3
        < 1 a@v3
        """,
        refused={("a", "v2")},
    )


def test_a_rollback_is_followed(both):
    both("""
        ! a@v2
        {subscribe_a}
        < 1 a@v2
        > ack 1{a}
        = accepted a@v2
        ! a@v1
        < 2 a@v1
    """)


def test_a_refused_push_back_is_not_repeated(both):
    both("""
        ! a@v1
        {subscribe_a}
        < 1 a@v1
        > ack 1{a}
        = accepted a@v1
        ! a@v2
        < 2 a@v2
        > nack 2{a}
        = refused a@v2
        < 3 a@v1
        > nack 3{a}
        = refused a@v1
        wait 1200
    """)


def test_the_ack_of_content_that_was_refused_before_is_not_an_acceptance():
    """Envoy 1.40 ACKs a mismatched pair when it comes twice."""
    play(
        """
        ! a@v1
        > +a
        < 1 a@v1
        > +a
        < 2 a@v1
        > nack 1
        = refused a@v1
        > ack 2
        = unverified a@v1
        """,
        delta=True,
    )


def test_an_answer_counts_once(both):
    both("""
        ! a@v1
        {subscribe_a}
        < 1 a@v1
        > nack 1{a}
        = refused a@v1
        > nack 1{a}
    """)


def test_a_bad_secret_delays_no_other():
    play(
        """
        ! a@v1
        ! b@v1
        > +a +b
        < 1 a@v1
        < 2 b@v1
        > nack 1
        = refused a@v1
        > ack 2
        = accepted b@v1
        ! b@v2
        < 3 b@v2
        """,
        delta=True,
    )


def test_unchanged_secrets_are_sent_again_slowly(both):
    """It alone heals a proxy whose listener update lost its Secret silently (envoyproxy/envoy#47309)."""
    both("""
        ! a@v1
        {subscribe_a}
        < 1 a@v1
        > ack 1{a}
        = accepted a@v1
        wait 599
        wait 1
        < 2 a@v1
        > ack 2{a}
        = accepted a@v1
        wait 600
        < 3 a@v1
    """)


def subscribed(*names, delta=True, rng=None):
    stream = Stream(delta=delta, now=0.0, rng=rng or random.Random(1))
    events = stream.receive(Request(subscribe=names), 0.0)
    return stream, events


def test_refreshes_of_a_fleet_are_spread():
    moments = {subscribed("a", rng=random.Random(seed))[0].next_wake(0.0) for seed in range(50)}

    assert len(moments) == 50
    assert REFRESH_S * (1 - REFRESH_JITTER) <= min(moments)
    assert max(moments) <= REFRESH_S * (1 + REFRESH_JITTER)


def test_silence_after_a_response_is_measured_and_wakes_at_its_limits():
    stream, _ = subscribed("a", "b")
    for name in "ab":
        stream.respond({name: resource(name, "v1")}.get, 5.0)

    assert stream.unanswered_s(15.0) == 10.0
    assert stream.next_wake(15.0) == 5.0 + WARN_UNANSWERED_S
    assert stream.next_wake(50.0) == 5.0 + CLOSE_UNANSWERED_S


def test_an_answer_ends_the_silence():
    stream, _ = subscribed("a")
    response = stream.respond({"a": resource("a", "v1")}.get, 5.0)
    stream.receive(Request(nonce=response.nonce), 6.0)

    assert stream.unanswered_s(15.0) == 0.0


def test_nobody_waits_for_the_answer_of_an_ended_subscription():
    """Envoy gives none when it watches nothing of the type any more."""
    stream, _ = subscribed("a")
    stream.respond({"a": resource("a", "v1")}.get, 5.0)
    stream.receive(Request(unsubscribe=("a",)), 6.0)

    assert stream.unanswered_s(500.0) == 0.0


def test_a_late_refusal_of_an_ended_subscription_still_counts():
    stream, _ = subscribed("a")
    response = stream.respond({"a": resource("a", "v1")}.get, 5.0)
    stream.receive(Request(unsubscribe=("a",)), 6.0)
    events = stream.receive(Request(subscribe=("a",), nonce=response.nonce, error="no"), 7.0)

    assert events == [Refused("a", "v1", 1, "no"), Subscribed("a")]
    assert stream.respond({"a": resource("a", "v1")}.get, 8.0) is None


def test_subscriptions_are_told_once():
    stream, events = subscribed("a", "a")

    assert events == [Subscribed("a")]
    assert stream.receive(Request(subscribe=("a",)), 1.0) == []
    assert stream.receive(Request(unsubscribe=("a", "a")), 1.0) == [Unsubscribed("a")]
    assert stream.wanted == frozenset()


def test_the_names_of_a_stream_are_bounded():
    stream, events = subscribed(*map(str, range(MAX_NAMES + 5)))

    assert len(stream.wanted) == MAX_NAMES
    assert events[-1] == Ignored(5)


def test_unanswered_responses_of_ended_subscriptions_are_bounded():
    stream, _ = subscribed()
    for _ in range(MAX_ABANDONED + 10):
        stream.receive(Request(subscribe=("a",)), 0.0)
        stream.respond({"a": resource("a", "v1")}.get, 0.0)

    assert len(stream._abandoned) == MAX_ABANDONED


def test_a_lost_right_is_seen_when_the_stream_is_checked_again():
    stream, _ = subscribed("a")
    response = stream.respond({"a": resource("a", "v1")}.get, 0.0)
    stream.receive(Request(nonce=response.nonce), 0.0)
    stream.recheck()
    removal = stream.respond({"a": ABSENT}.get, 0.0)

    assert (removal.name, removal.resource) == ("a", None)


@pytest.mark.parametrize("refused_before_too", [False, True])
def test_who_refused_it_on_another_stream_gets_the_one_before(refused_before_too):
    """A proxy that has started anew has nothing at all; what it refused as well is no help."""
    new, old = Resource("a", "v2", 2, b"new"), Resource("a", "v1", 1, b"old")
    refused = [("a", "v2"), *([("a", "v1")] if refused_before_too else [])]
    stream = Stream(delta=True, now=0.0, rng=random.Random(1), refused=refused, before=lambda _name: old)
    stream.receive(Request(subscribe=("a",)), 0.0)
    response = stream.respond(lambda _name: new, 0.0)

    assert (None if refused_before_too else old) == (None if response is None else response.resource)
