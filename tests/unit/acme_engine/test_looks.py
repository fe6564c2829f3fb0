"""When a CA is looked at again: learnt from it, within bounds, and never against its word."""

from datetime import timedelta

import pytest

from acme_engine.looks import LATEST_S, NEXT_S, SOONEST_S, Looks, Wait


def waits(looks, needed_s, times):
    """Wait so often for a CA that needs so long; return how often it was looked at in each wait."""
    counts = []
    for _ in range(times):
        wait, at_s, looked = Wait(looks), 0.0, 0
        while at_s < needed_s:
            at_s += wait.pause_s(None)
            looked += 1
        wait.done()
        counts.append(looked)
    return counts


def test_an_unknown_ca_is_looked_at_soon_and_then_ever_later():
    wait = Wait(Looks())

    assert [SOONEST_S, *NEXT_S, NEXT_S[-1]] == [wait.pause_s(None) for _ in range(7)]


@pytest.mark.parametrize(("needed_s", "at_most"), [(0.003, 1.0), (0.05, 1.2), (0.6, 1.2), (1.8, 1.3)])
def test_a_ca_is_looked_at_once_when_it_is_done_as_it_was_before(needed_s, at_most):
    looks = Looks()
    waits(looks, needed_s, 50)

    assert sum(waits(looks, needed_s, 100)) / 100 <= at_most
    assert looks.first_s <= 2 * needed_s or looks.first_s == SOONEST_S, "and not long after it is done"


def test_one_that_became_quick_is_soon_looked_at_sooner():
    looks = Looks()
    waits(looks, 1.5, 5)
    slow_s = looks.first_s
    waits(looks, 0.003, 120)

    assert slow_s >= 1.0
    assert SOONEST_S == looks.first_s


def test_one_that_takes_for_ever_is_looked_at_first_within_bounds():
    looks = Looks()
    waits(looks, 3600, 2)

    assert LATEST_S == looks.first_s


def test_a_ca_s_word_is_kept_and_nothing_is_learnt_from_it():
    looks = Looks()
    wait = Wait(looks)
    told_s = [wait.pause_s(timedelta(seconds=30)), wait.pause_s(timedelta(0))]
    wait.done()

    assert [30.0, NEXT_S[0]] == told_s
    assert SOONEST_S == looks.first_s


def test_what_was_not_waited_for_teaches_nothing():
    looks = Looks(first_s=1.0)
    Wait(looks).done()

    assert 1.0 == looks.first_s
