import random
from datetime import UTC, datetime, timedelta

import pytest

from acme_engine import backoff

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
FAR = NOW + timedelta(days=365)


class Middle:
    def uniform(self, a, b):
        return (a + b) / 2


def interval(attempts, *, not_after=FAR, retry_after=None, rng=None):
    at = backoff.next_attempt(
        attempts=attempts, now=NOW, not_after=not_after, retry_after=retry_after, rng=rng or Middle()
    )
    return at - NOW


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        (1, timedelta(minutes=1)),
        (2, timedelta(minutes=10)),
        (3, timedelta(minutes=100)),
        (4, timedelta(days=1)),
        (40, timedelta(days=1)),
    ],
)
def test_the_intervals_grow_to_a_day(attempts, expected):
    assert interval(attempts) == expected


def test_at_least_eight_tries_are_left_before_the_end():
    assert interval(9, not_after=NOW + timedelta(days=4)) == timedelta(hours=12)
    assert interval(2, not_after=NOW + timedelta(minutes=8)) == timedelta(minutes=1)
    assert interval(9, not_after=NOW + timedelta(seconds=8)) == backoff.SHORTEST


@pytest.mark.parametrize("not_after", [None, NOW, NOW - timedelta(days=3)])
def test_with_nothing_left_to_lose_it_is_daily(not_after):
    assert interval(9, not_after=not_after) == timedelta(days=1)


def test_retry_after_is_never_undercut():
    assert interval(1, retry_after=timedelta(hours=26)) == timedelta(hours=26)
    assert interval(3, retry_after=timedelta(seconds=1)) == timedelta(minutes=100)


def test_the_spread_is_a_fifth_either_way():
    seen = [interval(3, rng=random.Random(seed)) for seed in range(200)]

    assert timedelta(minutes=80) <= min(seen) < timedelta(minutes=85)
    assert timedelta(minutes=115) < max(seen) <= timedelta(minutes=120)


def test_pauses_in_place_double_to_a_minute():
    assert [backoff.pause_s(n, Middle()) for n in (1, 2, 3, 6, 7, 99)] == [1, 2, 4, 32, 60, 60]
