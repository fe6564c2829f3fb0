import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

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
        (timedelta(days=64), timedelta(days=21, hours=8)),
        (timedelta(days=47), timedelta(days=15, hours=16)),
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


def spread(life, jitter):
    return renewal.spread(not_before=ISSUED, not_after=ISSUED + life, jitter=jitter)


def test_orders_are_spread_over_a_fiftieth_of_the_life_and_a_day_at_most():
    assert spread(timedelta(days=45), 1.0) == timedelta(days=45) / 50
    assert spread(timedelta(days=90), 1.0) == timedelta(days=1)
    assert spread(timedelta(days=90), 0.5) == timedelta(hours=12)


@pytest.mark.parametrize(
    "life", [timedelta(minutes=5), timedelta(days=6), timedelta(days=10), timedelta(days=398)]
)
def test_nothing_puts_it_off_beyond_the_floor(life):
    at = renewal.decide(not_before=ISSUED, not_after=ISSUED + life).at + spread(life, 1.0)

    assert at <= renewal.floor(not_before=ISSUED, not_after=ISSUED + life) < ISSUED + life


def test_the_reason_is_a_fixed_word():
    assert renewal.decide(not_before=ISSUED, not_after=ISSUED + timedelta(days=90)).reason == "third-left"
    assert renewal.decide(not_before=ISSUED, not_after=ISSUED + timedelta(days=6)).reason == "half-left"


ENDS = ISSUED + timedelta(days=90)


def wished(days, **more):
    """Decide on a 90 days' certificate whose CA wishes its renewal after so many of them."""
    wish = renewal.Wish(ISSUED + timedelta(days=days), **more)
    return renewal.decide(not_before=ISSUED, not_after=ENDS, wish=wish)


def test_a_ca_s_wish_comes_before_the_share_of_life():
    assert wished(40) == renewal.Decision(ISSUED + timedelta(days=40), "ari-window")
    assert wished(70) == renewal.Decision(ISSUED + timedelta(days=70), "ari-window")


def test_a_window_that_is_over_means_now():
    assert wished(-300, past=True) == renewal.Decision(ISSUED - timedelta(days=300), "ari-window-past")


def test_no_wish_goes_beyond_the_floor():
    """acme2certifier's window by default: from 85 to 100 % of the life."""
    assert wished(0.85 * 90) == renewal.Decision(ISSUED + timedelta(days=75), "ari-clamped")
    assert wished(90) == renewal.Decision(ISSUED + timedelta(days=75), "ari-clamped")


def test_the_wish_of_a_ca_that_does_not_answer_puts_nothing_off():
    assert wished(70, doubtful=True) == renewal.Decision(ISSUED + timedelta(days=60), "third-left")
    assert wished(40, doubtful=True) == renewal.Decision(ISSUED + timedelta(days=40), "ari-window")


def tempered(decision, *earlier_h, age_h=1):
    """Temper a decision on a 90 days' certificate of this age; ``earlier_h``: hours before its issue."""
    issued = ISSUED + timedelta(hours=age_h)  # a CA's notBefore lies back by an hour
    return renewal.tempered(
        decision,
        issued_at=issued,
        not_before=ISSUED,
        not_after=ENDS,
        earlier=[issued - timedelta(hours=hours) for hours in earlier_h],
    )


def test_a_stale_window_does_not_replace_a_young_certificate_again_and_again():
    """Its window is over: the first time at once, then an hour later, then, after three, a day later."""
    now = renewal.Decision(ISSUED, "ari-window-past")
    issued = ISSUED + timedelta(hours=1)

    assert tempered(now) == now
    assert tempered(now, 0) == renewal.Decision(issued + timedelta(hours=1), "ari-held-back")
    assert tempered(now, 2, 1, 0) == renewal.Decision(issued + timedelta(hours=22), "ari-held-back")


def test_a_certificate_that_is_not_young_is_replaced_when_its_ca_wishes():
    later = renewal.Decision(ISSUED + timedelta(days=5), "ari-window-past")

    assert tempered(later, 0) == later


def test_it_is_young_for_a_twentieth_of_its_life():
    """Of six days 7.2 hours: who renewed it thrice in a day before does not wait after those."""
    dates = {"not_before": ISSUED, "not_after": ISSUED + timedelta(days=6)}
    earlier = [ISSUED - timedelta(hours=hours) for hours in (2, 1, 0)]

    def at(hours):
        wished = renewal.Decision(ISSUED + timedelta(hours=hours), "ari-window-past")
        return renewal.tempered(wished, issued_at=ISSUED, earlier=earlier, **dates).at - ISSUED

    assert [timedelta(hours=22), timedelta(hours=8)] == [at(7), at(8)]


def test_our_own_dates_are_not_tempered_and_the_floor_holds():
    ours = renewal.Decision(ISSUED, "third-left")
    short = renewal.tempered(
        renewal.Decision(ISSUED, "ari-window-past"),
        issued_at=ISSUED,
        not_before=ISSUED,
        not_after=ISSUED + timedelta(hours=1),
        earlier=[ISSUED, ISSUED, ISSUED],
    )

    assert tempered(ours, 0) == ours
    assert short.at == ISSUED + timedelta(minutes=45)


def test_a_thousand_certificates_that_are_due_together_are_ordered_over_half_a_day():
    """By the jitter that each replica computes alike of a certificate's id."""
    times = sorted(
        ISSUED + spread(timedelta(days=90), renewal.jitter(UUID(int=rng)))
        for rng in (random.Random(n).getrandbits(128) for n in range(1000))
    )
    busiest = max(sum(hour <= at < hour + timedelta(hours=1) for at in times) for hour in times[::50])

    assert times[-10] - times[10] >= timedelta(hours=12)
    assert busiest < 100
