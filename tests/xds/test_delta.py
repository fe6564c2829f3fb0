"""Incremental xDS: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, and Envoy 1.40."""

from tests.xds.transcript import play


def delta(text, **options):
    play(text, delta=True, **options)


def test_a_name_subscribed_and_unsubscribed_in_one_message_is_unsubscribed():
    """Subscribe first, then unsubscribe."""
    delta("""
        ! a@v1
        > +a -a
    """)


def test_a_name_subscribed_again_is_sent_again():
    """It MUST be: a client may have forgotten; an on-demand handshake hangs without (Envoy 1.40: 8 s)."""
    delta("""
        ! a@v1
        > +a
        < 1 a@v1
        > ack 1
        = accepted a@v1
        > +a
        < 2 a@v1
    """)


def test_a_name_subscribed_again_is_answered_even_while_an_older_answer_is_in_flight():
    """Envoy drops, without ACK, what comes while it watches nothing of the type."""
    delta("""
        ! a@v1
        > +a
        < 1 a@v1
        > -a
        > +a
        < 2 a@v1
        > ack 1
        > ack 2
        = accepted a@v1
        wait 120
    """)


def test_what_does_not_exist_is_removed_at_once_and_pushed_when_it_does():
    """It ends Envoy's warming: live in 0.4 s instead of 15 s."""
    delta("""
        ! a absent
        > +a
        < 1 a removed
        > ack 1
        ! a@v1
        < 2 a@v1
    """)


def test_what_is_being_issued_is_silence_for_ten_seconds_and_then_removed():
    delta("""
        ! a pending
        > +a
        wait 9
        wait 1
        < 1 a removed
        > ack 1
        wait 60
        ! a@v1
        < 2 a@v1
    """)


def test_what_is_issued_in_time_is_never_called_removed():
    delta("""
        ! a pending
        > +a
        wait 9
        ! a@v1
        < 1 a@v1
        > ack 1
        = accepted a@v1
        wait 60
    """)


def test_a_name_that_is_subscribed_again_while_it_is_issued_waits_anew():
    delta("""
        ! a pending
        > +a
        wait 9
        > +a
        wait 9
        wait 1
        < 1 a removed
    """)


def test_a_name_that_is_dropped_while_it_is_issued_is_silence():
    delta("""
        ! a pending
        > +a
        > -a
        wait 20
    """)


def test_what_was_sent_and_is_pending_anew_is_silence():
    delta("""
        ! a pending
        > +a
        wait 5
        ! a@v1
        < 1 a@v1
        > ack 1
        = accepted a@v1
        wait 10
        ! a pending
    """)


def test_what_is_not_loaded_is_silence():
    """A replica that has not read its inventory must not take secrets from a fleet."""
    delta("""
        > +a known:a@v1 known:b@v1
        wait 60
        ! a@v1
        < 1 a@v1
    """)


def test_a_deleted_secret_is_removed():
    delta("""
        ! a@v1
        > +a
        < 1 a@v1
        > ack 1
        = accepted a@v1
        ! a absent
        < 2 a removed
    """)


def test_unsubscribing_gets_no_response():
    delta("""
        ! a@v1
        > +a
        < 1 a@v1
        > ack 1
        = accepted a@v1
        > -a -unknown
        ! a@v2
    """)


def test_subscriptions_count_on_an_ack_on_a_nack_and_with_a_stale_nonce():
    delta("""
        ! a@v1
        ! b@v1
        ! c@v1
        ! d@v1
        > +a
        < 1 a@v1
        > ack 1 +b
        = accepted a@v1
        < 2 b@v1
        > nack 2 +c
        = refused b@v1
        < 3 c@v1
        > ack 1 +d -c
        < 4 d@v1
        > ack 3
        ! c@v2
    """)


def test_the_ack_of_a_name_that_is_not_wanted_any_more_is_no_acceptance():
    """Envoy ACKs, unseen, what comes for a name that it has dropped."""
    delta("""
        ! a@v1
        > +a
        < 1 a@v1
        > -a
        > ack 1
    """)


def test_an_empty_first_message_and_a_star_subscribe_nothing():
    delta("""
        ! a@v1
        >
        > +*
        = ignored 1
    """)


def test_initial_versions_subscribe_nothing_and_what_is_gone_is_removed():
    """Forgetting the latter leaks dead resources (istio#41494)."""
    delta("""
        ! a@v1
        ! b@v1
        ! gone absent
        > +a known:a@v1 known:b@v1 known:gone@v1
        < 1 a@v1
        < 2 gone removed
        > ack 1
        = accepted a@v1
        > ack 2
        ! b@v2
    """)


def test_an_initial_version_waits_until_it_is_known_whether_it_is_gone():
    delta("""
        > known:gone@v1
        ! gone absent
        < 1 gone removed
    """)


def test_an_initial_version_that_is_subscribed_later_is_a_subscription_only():
    delta("""
        > known:a@v1
        > +a
        ! a@v1
        < 1 a@v1
        > ack 1 -a
        = accepted a@v1
        ! a absent
    """)


def test_equal_initial_versions_are_sent_anyway():
    """A version that Envoy claims after a NACK is a lie."""
    delta("""
        ! a@v1
        > +a known:a@v1
        < 1 a@v1
    """)
