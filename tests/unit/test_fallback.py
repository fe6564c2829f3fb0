"""Which issuer is asked: the first, and when another instead."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_engine.errors import OrderFailed, Problem, Refused, Unfinished, Unreachable
from sds_server.lifecycle import fallback
from sds_server.lifecycle.fallback import Choice, Standing

WELL = Standing()
BRIEFLY = Standing(paused=True, paused_for=timedelta(seconds=3), failures=1, failed_ago=timedelta(0))
AWAY = Standing(paused=True, paused_for=timedelta(seconds=3), failures=3, failed_ago=timedelta(0))
LIMITED = Standing(paused=True, paused_for=timedelta(hours=1))
ON_HOLD = Standing(paused=True, paused_for=None)
FAILING = Standing(failures=3, failed_ago=timedelta(minutes=1))
FAILED_ONCE = Standing(failures=1, failed_ago=timedelta(minutes=1))
LONG_AGO = Standing(failures=9, failed_ago=timedelta(hours=1))
SPENT = Standing(spent_for=timedelta(days=2))
SPENT_BRIEFLY = Standing(spent_for=timedelta(minutes=4))


def choose(first, second=WELL, **more):
    settings = {"urgent": False, "attempts": 1} | more
    return fallback.choose(["le", "zerossl"], {"le": first, "zerossl": second}, **settings)


@pytest.mark.parametrize("first", [WELL, FAILED_ONCE, LONG_AGO, SPENT_BRIEFLY])
def test_the_first_is_asked_while_it_may_deliver(first):
    assert Choice("le") == choose(first)


def test_a_short_pause_is_waited_for():
    assert choose(BRIEFLY) is None


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (AWAY, "le: it failed 3 times in a row"),
        (FAILING, "le: it failed 3 times in a row"),
        (LIMITED, "le: it is left alone for longer"),
        (ON_HOLD, "le: it is left alone for longer"),
        (SPENT, "le: a limit of it is spent"),
    ],
)
def test_the_next_is_asked_when_the_first_will_not_deliver_soon(first, why):
    assert Choice("zerossl", why) == choose(first)


@pytest.mark.parametrize("first", [AWAY, FAILING, LIMITED])
def test_with_all_in_trouble_one_that_is_not_left_alone_is_tried(first):
    tried = choose(first, FAILING)

    assert tried is not None
    assert ("le" if first is FAILING else "zerossl") == tried.issuer
    assert choose(first, LIMITED if first is not FAILING else WELL) is None or first is FAILING


def test_an_order_under_way_is_finished_where_it_is():
    assert "zerossl" == choose(WELL, under_way="zerossl").issuer
    assert "le" == choose(WELL, under_way="le").issuer
    assert "zerossl" == choose(AWAY, under_way="le").issuer


def test_with_little_time_left_they_are_asked_by_turns():
    turns = [choose(WELL, urgent=True, attempts=attempt).issuer for attempt in (1, 2, 3)]

    assert ["le", "zerossl", "le"] == turns
    assert "zerossl" == choose(BRIEFLY, urgent=True).issuer


def refused(code, status):
    return Refused("no", Problem.of({"type": f"urn:ietf:params:acme:error:{code}"}, status=status))


@pytest.mark.parametrize(
    ("error", "is_the_cas"),
    [
        (Unreachable("gone"), True),
        (Unfinished("it is processing", order_url=None), True),
        (refused("serverInternal", 500), True),
        (refused("tomorrow", 503), True),
        (refused("dns", 400), False),
        (refused("connection", 400), False),
        (refused("unauthorized", 403), False),
        (refused("rateLimited", 429), False),
        (OrderFailed("a name could not be proved", order_url="x"), False),
    ],
)
def test_what_is_wrong_with_a_name_is_not_the_cas_fault(error, is_the_cas):
    assert is_the_cas == fallback.by_the_ca(error)


def test_time_is_short_below_the_renewal_floor():
    """A sixth of 90 days: with 15 days left no CA is waited for."""
    issued = datetime(2026, 1, 1, tzinfo=UTC)
    ends = issued + timedelta(days=90)
    just_above, just_below = ends - timedelta(days=15, hours=1), ends - timedelta(days=14, hours=23)

    assert not fallback.is_urgent(issued, ends, now=just_above)
    assert fallback.is_urgent(issued, ends, now=just_below)
    assert not fallback.is_urgent(None, None, now=just_below)
