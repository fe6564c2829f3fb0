"""What may be ordered now: buckets that fill up evenly, a share that is kept, and the CA's own word."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sds_server.lifecycle import budget
from sds_server.lifecycle.budget import Account, Bucket, Order
from sds_server.limits import PRESETS, Counted, of_directory

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LIMITS = PRESETS["letsencrypt"].limits
ORDER = Order(names=("www.example.com", "example.com"), domains=("example.com",))
DOMAIN = Account(Counted.DOMAIN, "example.com")
WEEK = timedelta(days=7)


def take_until_refused(account, *, by_hand=False, now=NOW):
    """Take of a full bucket until nothing is left; returns how many, and the refusal."""
    buckets, taken = {}, 0
    while True:
        refusal = budget.decide([account], buckets, LIMITS, now=now, by_hand=by_hand)
        if refusal is not None:
            return taken, refusal, buckets
        full_at = budget.after_one(buckets.get(account, budget.FULL), LIMITS[account.counted], now=now)
        buckets[account] = Bucket(full_at=full_at)
        taken += 1


@pytest.mark.parametrize(
    ("counted", "by_itself", "by_hand"),
    [
        (Counted.ORDERS, 240, 300),
        (Counted.DOMAIN, 40, 50),
        (Counted.NAMES, 4, 5),
        (Counted.FAILURES, 4, 5),
        (Counted.ACCOUNTS, 8, 10),
    ],
)
def test_a_fifth_of_each_limit_is_kept_for_people(counted, by_itself, by_hand):
    account = Account(counted, "x")

    assert (by_itself, by_hand) == (
        take_until_refused(account)[0],
        take_until_refused(account, by_hand=True)[0],
    )


def test_what_is_spent_comes_back_evenly():
    """Let's Encrypt: "a new certificate every 202 minutes" of a registered domain."""
    _, refusal, buckets = take_until_refused(DOMAIN)
    wait = refusal.until - NOW

    assert WEEK / 50 == wait
    just_before = NOW + wait - timedelta(seconds=1)
    assert budget.decide([DOMAIN], buckets, LIMITS, now=just_before) is not None
    assert budget.decide([DOMAIN], buckets, LIMITS, now=NOW + wait) is None


def test_a_refusal_says_what_and_how_much():
    _, refusal, _ = take_until_refused(DOMAIN)

    assert "50 certificates of example.com in 168 h would be exceeded; 20% of it is kept" in refusal.said


def test_of_several_limits_the_one_that_lasts_longest_is_told():
    _, _, orders = take_until_refused(Account(Counted.ORDERS, ""))
    _, _, names = take_until_refused(Account(Counted.NAMES, "x"))
    wanted = [Account(Counted.ORDERS, ""), Account(Counted.NAMES, "x")]
    refusal = budget.decide(wanted, orders | names, LIMITS, now=NOW)

    assert refusal is not None
    assert Counted.NAMES == refusal.account.counted


def test_an_order_takes_of_account_domains_and_names():
    assert [
        Account(Counted.ORDERS, ""),
        DOMAIN,
        Account(Counted.NAMES, "example.com,www.example.com"),
    ] == budget.taken(ORDER, LIMITS)


def test_one_that_names_its_predecessor_takes_nothing():
    """RFC 9773: such renewals "are exempt from all rate limits" of Let's Encrypt."""
    assert [] == budget.taken(replace(ORDER, replacing=True), LIMITS)


def test_a_renewal_of_the_same_names_takes_of_these_names_alone():
    taken = budget.taken(replace(ORDER, renewing=True), LIMITS)

    assert [Counted.NAMES] == [account.counted for account in taken]


def test_an_order_needs_a_failure_left_for_each_name_but_takes_none():
    wildcard = replace(ORDER, names=("*.example.com", "example.com"))

    assert [Account(Counted.FAILURES, "example.com")] == budget.looked_at(wildcard, LIMITS)


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_the_ca_closed_is_open_when_it_said(by_hand):
    """The CA's word counts for people too; the next one is there then, and not another share later."""
    lasts = timedelta(hours=26)
    buckets = {DOMAIN: budget.empty_until(LIMITS[Counted.DOMAIN], now=NOW, lasts=lasts)}
    refusal = budget.decide([DOMAIN], buckets, LIMITS, now=NOW, by_hand=by_hand)

    assert refusal is not None
    assert (NOW + lasts, True) == (refusal.until, refusal.by_ca)
    assert budget.decide([DOMAIN], buckets, LIMITS, now=NOW + lasts, by_hand=by_hand) is None


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        ("too many new orders (300) from this account in the last 3h0m0s", Account(Counted.ORDERS, "")),
        ('too many certificates (50) already issued for "example.com" in the last 168h0m0s', DOMAIN),
        (
            "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
            Account(Counted.NAMES, "example.com,www.example.com"),
        ),
        (
            'too many failed authorizations (5) for "www.example.com" in the last 1h0m0s',
            Account(Counted.FAILURES, "www.example.com"),
        ),
    ],
)
def test_a_429_is_known_by_its_words(said, reached):
    assert [reached] == budget.reached(said, LIMITS, ORDER)


def test_a_429_that_nobody_knows_is_of_no_limit():
    assert [] == budget.reached("service busy; retry later.", LIMITS, ORDER)


def test_the_ca_is_known_by_its_directory():
    assert PRESETS["letsencrypt"] is of_directory("https://acme-v02.api.letsencrypt.org/directory")
    assert PRESETS["letsencrypt-staging"] is of_directory(
        "https://acme-staging-v02.api.letsencrypt.org/directory"
    )
    assert PRESETS["zerossl"] is of_directory("https://acme.zerossl.com/v2/DV90")
    assert PRESETS["google"] is of_directory("https://dv.acme-v02.api.pki.goog/directory")
    assert PRESETS["off"] is of_directory("https://step-ca.example.test/acme/acme/directory")


def test_a_forecast_says_when_the_last_order_can_go():
    """60 certificates of one domain: 40 at once, and one each 202 minutes."""
    orders = [Order(names=(f"a{n}.example.com",), domains=("example.com",)) for n in range(60)]
    other = Order(names=("a.example.org",), domains=("example.org",))

    assert NOW + 20 * WEEK / 50 == budget.forecast([*orders, other], {}, LIMITS, now=NOW)
    assert NOW == budget.forecast([other], {}, LIMITS, now=NOW)
