"""The benchmark of HTTP-01's responder in short: it runs whole, and every answer is the right one.

How many a second says `make bench ARGS=challenge_answers`.
"""

import pytest

from benchmarks import challenge_answers

pytestmark = pytest.mark.timeout(240)


def test_many_who_validate_at_once_are_each_answered_rightly():
    figures, goals = challenge_answers.run(1_000)

    assert 0 == figures["wrong answers"]
    assert goals.keys() <= figures.keys()
