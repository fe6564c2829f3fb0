"""How long each part of an order took: only what was seen from its beginning to its end."""

from datetime import timedelta

from sds_server.lifecycle.phases import Phases
from tests.support.clocks import TurnedClock


def told(*steps, new=True):
    """What is told of these steps, each so many seconds after the one before."""
    clock = TurnedClock()
    phases, found = Phases(clock, new=new), []
    for seconds, name in steps:
        clock.turn(timedelta(seconds=seconds))
        if (ended := phases.stepped(name)) is not None:
            found.append(ended)
    return found


def test_each_part_of_an_order_is_timed():
    assert [
        ("order", 1.0),
        ("challenge", 30.0),
        ("authorization", 5.0),
        ("finalize", 2.0),
        ("download", 3.0),
    ] == told(
        (1, "order.created"),
        (10, "challenge.presented"),
        (20, "challenge.ready"),
        (0, "challenge.answered"),
        (5, "authorization.valid"),
        (0, "order.finalizing"),
        (2, "order.valid"),
        (3, "certificate.downloaded"),
    )


def test_of_many_names_the_first_answer_ends_the_challenge_and_the_last_proof_the_authorization():
    assert [("order", 1.0), ("challenge", 2.0), ("authorization", 9.0)] == told(
        (1, "order.created"),
        (2, "challenge.answered"),
        (4, "challenge.answered"),
        (5, "authorization.valid"),
        (0, "order.finalizing"),
    )


def test_where_the_ca_knows_every_name_nothing_was_proved():
    assert [("order", 1.0), ("finalize", 4.0)] == told(
        (1, "order.created"), (2, "order.finalizing"), (4, "order.valid")
    )


def test_an_order_that_was_not_ready_is_finalized_since_it_was_first_asked():
    assert [("order", 1.0), ("finalize", 7.0)] == told(
        (1, "order.created"), (0, "order.finalizing"), (3, "order.finalizing"), (4, "order.valid")
    )


def test_of_what_a_crash_cut_in_two_nothing_is_told():
    assert [("download", 3.0)] == told(
        (1, "order.resumed"), (2, "order.valid"), (3, "certificate.downloaded"), new=False
    )
