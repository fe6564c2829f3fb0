from datetime import UTC, datetime, timedelta

import pytest

from acme_engine import renewal

ISSUED = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def left(life, **more):
    """Return how long before its end a certificate of this life is renewed."""
    ends = ISSUED + life
    return ends - renewal.decide(not_before=ISSUED, not_after=ends, **more).at


@pytest.mark.parametrize(
    ("life", "expected"),
    [
        (timedelta(days=90), timedelta(days=30)),
        (timedelta(seconds=7_775_999), timedelta(days=30)),  # Let's Encrypt's "90 days"
        (timedelta(days=45), timedelta(days=15)),
        (timedelta(days=10), timedelta(days=10) / 3),
        (timedelta(days=10) - timedelta(seconds=2), timedelta(days=5) - timedelta(seconds=1)),
        (timedelta(hours=160), timedelta(hours=80)),
        (timedelta(hours=24), timedelta(hours=12)),
        (timedelta(minutes=5), timedelta(seconds=150)),
    ],
)
def test_a_third_of_its_life_or_half_of_a_short_one_is_left(life, expected):
    assert left(life) == expected


def test_jitter_puts_it_off_by_a_fiftieth_of_its_life_and_a_day_at_most():
    assert left(timedelta(days=45), jitter=1.0) == timedelta(days=15) - timedelta(days=45) / 50
    assert left(timedelta(days=90), jitter=1.0) == timedelta(days=29)
    assert left(timedelta(days=90), jitter=0.5) == timedelta(days=29, hours=12)


@pytest.mark.parametrize(
    "life", [timedelta(minutes=5), timedelta(days=6), timedelta(days=10), timedelta(days=398)]
)
def test_nothing_puts_it_off_beyond_the_floor(life):
    at = renewal.decide(not_before=ISSUED, not_after=ISSUED + life, jitter=1.0).at

    assert at <= renewal.floor(not_before=ISSUED, not_after=ISSUED + life) < ISSUED + life


def test_the_reason_is_a_fixed_word():
    assert renewal.decide(not_before=ISSUED, not_after=ISSUED + timedelta(days=90)).reason == "third-left"
    assert renewal.decide(not_before=ISSUED, not_after=ISSUED + timedelta(days=6)).reason == "half-left"
