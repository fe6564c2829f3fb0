"""What follows each kind of failure: the table of RFC 8555's error types, row by row."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_engine import errors
from acme_engine.errors import OrderFailed, Problem, Refused, Unfinished
from sds_server.errors import KeyAwaited
from sds_server.lifecycle import retry
from sds_server.lifecycle.patience import Verdict

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

HELD = [
    "rejectedIdentifier",
    "unsupportedIdentifier",
    "externalAccountRequired",
    "invalidContact",
    "unsupportedContact",
    "userActionRequired",
    "badSignatureAlgorithm",
    "badRevocationReason",
    "invalidProfile",
]
TRIED_AGAIN = [
    "badNonce",
    "orderNotReady",
    "serverInternal",
    "connection",
    "dns",
    "incorrectResponse",
    "tls",
    "unauthorized",
    "compound",
    "malformed",
    "alreadyReplaced",
]


class Even:
    def uniform(self, low, high):
        return 1.0


def of(code, **more):
    return Problem.of({"type": errors.PREFIX + code, **more}, status=more.get("status", 403))


def after(error, *, attempts=1, verdict=Verdict.ORDERS, left=60 * DAY):
    return retry.after(
        error,
        attempts=attempts,
        verdict=verdict,
        not_after=None if left is None else NOW + left,
        now=NOW,
        rng=Even(),
    )


def refused(code, **more):
    return Refused("newOrder", of(code, **more))


@pytest.mark.parametrize("code", HELD)
def test_what_needs_a_person_is_never_tried_by_itself(code):
    assert after(refused(code)).pause is None
    assert after(OrderFailed("dead", order_url="u", problems=[of("dns"), of(code)])).pause is None


@pytest.mark.parametrize("code", TRIED_AGAIN)
def test_what_passes_or_is_mended_elsewhere_is_tried_by_the_back_off(code):
    assert [MINUTE, 10 * MINUTE, 100 * MINUTE, DAY] == [
        after(refused(code), attempts=n).pause for n in (1, 2, 3, 4)
    ]


def test_every_type_is_in_this_table():
    elsewhere = {"badCSR", "badPublicKey", "accountDoesNotExist", "caa", "rateLimited", "alreadyRevoked"}

    assert {*HELD, *TRIED_AGAIN, *elsewhere} == set(errors.RULES)


@pytest.mark.parametrize("code", ["badCSR", "badPublicKey"])
def test_a_request_that_the_ca_will_not_sign_is_tried_once_with_another_key(code):
    first, second = (after(refused(code), attempts=n) for n in (1, 2))

    assert (MINUTE, True, None) == (first.pause, first.abandon_order, second.pause)


def test_an_account_that_the_ca_forgot_is_registered_at_once_and_once():
    assert [timedelta(0), 10 * MINUTE] == [
        after(refused("accountDoesNotExist"), attempts=n).pause for n in (1, 2)
    ]


def test_caa_records_are_cached_for_an_hour():
    compound = of("compound", subproblems=[{"type": errors.PREFIX + "caa"}])

    assert HOUR == after(refused("caa")).pause
    assert HOUR == after(OrderFailed("dead", order_url="u", problems=[compound])).pause


@pytest.mark.parametrize(("status", "expected"), [(403, DAY), (418, DAY), (500, MINUTE)])
def test_an_unknown_type_goes_by_its_status(status, expected):
    assert expected == after(refused("tomorrow", status=status)).pause


def test_a_name_that_the_ca_has_paused_waits_for_a_person_with_the_page_to_visit():
    """Let's Encrypt says it in the words of a limit, but no time ends it."""
    page = "https://portal.ca.example.test/sfe/v1/unpause?jwt=abc"
    error = refused("rateLimited", status=429, detail=f"paused a.example. Please visit: {page}")

    assert (None, True) == (after(error).pause, page in error.hint)


def test_a_limit_that_names_a_page_to_read_is_no_pause_of_a_name():
    error = refused("rateLimited", status=429, detail="see https://ca.example.test/docs/rate-limits/#x")

    assert after(error).pause is not None


def test_retry_after_is_never_undercut_by_the_back_off():
    error = Refused("newOrder", Problem(type=errors.PREFIX + "dns", retry_after=26 * HOUR))

    assert 26 * HOUR == after(error).pause


@pytest.mark.parametrize(
    ("attempts", "retry_after", "expected"),
    [(1, None, MINUTE), (1, 30 * MINUTE, 30 * MINUTE), (1, DAY, HOUR), (4, None, HOUR), (4, 366 * DAY, HOUR)],
)
def test_an_order_that_is_under_way_is_looked_at_within_an_hour(attempts, retry_after, expected):
    """ZeroSSL says a day of one that is done in minutes."""
    error = Unfinished("the order is processing", order_url="u", retry_after=retry_after)

    assert (expected, False) == (after(error, attempts=attempts).pause, after(error).abandon_order)


def test_a_ca_that_is_away_costs_no_attempt_and_an_awaited_key_neither():
    away, awaited = after(refused("serverInternal"), verdict=Verdict.AWAY), after(KeyAwaited("www", "none"))

    assert (timedelta(0), False) == (away.pause, away.counted)
    assert (retry.KEY_AWAITED, False) == (awaited.pause, awaited.counted)


def test_after_the_end_it_is_tried_daily_for_a_month_and_then_a_person_is_waited_for():
    def pause(ended_ago):
        return after(refused("dns"), attempts=9, left=-ended_ago).pause

    assert [DAY, DAY, None] == [pause(DAY), pause(30 * DAY - HOUR), pause(30 * DAY)]


def test_a_first_issuance_is_tried_for_ever():
    assert DAY == after(refused("dns"), attempts=99, left=None).pause


def test_the_guilty_are_names_of_ours_alone_with_a_type_that_is_known():
    """What a CA makes up must not become a label of a metric."""
    error = OrderFailed(
        "dead",
        order_url="u",
        problems=[
            of("dns", identifier={"value": "a.example"}),
            of("tomorrow", identifier={"value": "b.example"}),
            of(
                "compound",
                subproblems=[{"type": errors.PREFIX + "caa", "identifier": {"value": "c.example"}}],
            ),
            of("dns", identifier={"value": "bank.example"}),
        ],
    )

    assert {("a.example", "dns"), ("b.example", "unknown"), ("c.example", "caa")} == retry.guilty(
        error, ["a.example", "*.b.example", "c.example"]
    )
    assert set() == retry.guilty(refused("rejectedIdentifier"), ["a.example"])
