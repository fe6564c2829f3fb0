"""What is told of a clock that is not the CA's."""

from datetime import timedelta

from structlog.testing import capture_logs

from sds_server.lifecycle.skew import Skew
from tests.support.clocks import TurnedClock


def logged(skew, *ahead_s):
    with capture_logs() as logs:
        for seconds in ahead_s:
            skew.measured("le", timedelta(seconds=seconds))
    return [(line["log_level"], line["event"], line["ahead_s"]) for line in logs]


def test_a_minute_is_nothing_and_more_is_told_once_with_the_next_step():
    skew = Skew(clock=TurnedClock())

    assert [] == logged(skew, 60, -60)
    assert [("error", "clock.skewed", -61.0)] == logged(skew, -61, -62, -63)
    assert ["63 s behind le's"] == skew.complaints()


def test_it_is_told_again_after_an_hour_and_when_it_is_over():
    clock = TurnedClock()
    skew = Skew(clock=clock)
    logged(skew, 90)
    clock.turn(timedelta(minutes=59))
    quiet = logged(skew, 90)
    clock.turn(timedelta(minutes=1))

    assert [] == quiet
    assert [("error", "clock.skewed", 90.0)] == logged(skew, 90)
    assert [("info", "clock.agrees", 0.0)] == logged(skew, 0, 0)
    assert [] == skew.complaints()
