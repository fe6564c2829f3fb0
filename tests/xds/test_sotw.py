"""State of the world: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, and Envoy 1.40."""

from tests.xds.transcript import play


def sotw(text, **options):
    play(text, delta=False, **options)


def test_what_exists_is_sent_one_secret_a_response_and_a_plain_ack_gets_no_reply():
    sotw("""
        ! a@v1
        ! b@v1
        > a b
        < 1 a@v1
        < 2 b@v1
        > ack 1 a b
        = accepted a@v1
        > ack 2 a b
        = accepted b@v1
    """)


def test_what_does_not_exist_is_silence_and_a_later_push():
    sotw("""
        ! a absent
        ! b pending
        > a b c
        wait 60
        ! a@v1
        < 1 a@v1
        ! b@v1
        < 2 b@v1
        ! c@v1
        < 3 c@v1
    """)


def test_a_secret_that_disappears_is_never_an_empty_response():
    sotw("""
        ! a@v1
        > a
        < 1 a@v1
        > ack 1 a
        = accepted a@v1
        ! a absent
    """)


def test_a_burst_of_names_with_empty_nonces_is_answered_and_credited_once_each():
    """Envoy's start on ADS: three requests before the first response, then three ACKs."""
    sotw("""
        ! a@v1
        ! b@v1
        ! c@v1
        > a
        < 1 a@v1
        > b a
        < 2 b@v1
        > c b a
        < 3 c@v1
        > ack 1 c b a
        = accepted a@v1
        > ack 2 c b a
        = accepted b@v1
        > ack 3 c b a
        = accepted c@v1
    """)


def test_the_latest_names_count_whatever_the_nonce():
    """Dropping a subscription change for its stale nonce is envoyproxy/envoy#10363."""
    sotw("""
        ! a@v1
        ! b@v1
        > a
        < 1 a@v1
        > ack 99 a b
        < 2 b@v1
        > ack 1 b
        = accepted a@v1
        ! a@v2
    """)


def test_the_names_of_a_nack_are_applied():
    sotw("""
        ! a@v1
        ! b@v1
        > a
        < 1 a@v1
        > nack 1 a b
        = refused a@v1
        < 2 b@v1
    """)


def test_added_names_are_answered_and_unchanged_ones_not_sent_for_that():
    sotw("""
        ! a@v1
        ! b@v1
        > a
        < 1 a@v1
        > ack 1 a
        = accepted a@v1
        > ack 1 a b
        < 2 b@v1
    """)


def test_a_removed_name_gets_no_push_and_is_sent_again_when_it_returns():
    sotw("""
        ! a@v1
        ! b@v1
        > a b
        < 1 a@v1
        < 2 b@v1
        > ack 1 a b
        = accepted a@v1
        > ack 2 a
        = accepted b@v1
        ! b@v2
        > ack 2 a b
        < 3 b@v2
    """)


def test_an_empty_list_unsubscribes_from_all_and_never_means_all():
    """SPIRE reads it as "everything"; Envoy sends it just before it closes a stream."""
    sotw("""
        ! a@v1
        >
        > a
        < 1 a@v1
        > ack 1
        = accepted a@v1
        ! a@v2
    """)


def test_wildcards_and_impossible_names_are_ignored():
    long = "n" * 513
    sotw(f"""
        ! a@v1
        ! *@v1
        > * a a {long} \x07
        = ignored 3
        < 1 a@v1
    """)


def test_a_name_may_have_512_bytes_and_no_control_character():
    longest = "ü" * 256
    sotw(f"""
        ! {longest}@v1
        > {longest} {longest}x a\x7f a\u200b
        = ignored 3
        < 1 {longest}@v1
    """)


def test_a_repeated_ack_is_a_new_watcher_and_is_answered_again():
    """Without an answer, a listener update on state-of-the-world ADS starves."""
    sotw("""
        ! a@v1
        > a
        < 1 a@v1
        > ack 1 a
        = accepted a@v1
        > ack 1 a
        < 2 a@v1
        > ack 2 a
        = accepted a@v1
    """)


def test_repeated_acks_are_answered_once_a_second_at_most_and_the_last_one_too():
    sotw("""
        ! a@v1
        > a
        < 1 a@v1
        > ack 1 a
        = accepted a@v1
        > ack 1 a
        < 2 a@v1
        > ack 2 a
        = accepted a@v1
        > ack 2 a
        > ack 2 a
        wait 1
        < 3 a@v1
        wait 10
    """)


def test_a_repeated_ack_asks_for_nothing_that_is_on_its_way():
    sotw("""
        ! a@v1
        ! b@v1
        > b a
        < 1 b@v1
        < 2 a@v1
        > ack 2 b a
        = accepted a@v1
        > ack 2 b a
        < 3 a@v1
        > ack 3 b a
        = accepted a@v1
        > ack 1 b a
        = accepted b@v1
    """)


def test_a_leftover_nonce_on_the_first_request_is_a_first_request():
    sotw("""
        ! a@v1
        > ack 7 a
        < 1 a@v1
    """)
