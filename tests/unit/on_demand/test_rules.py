"""Rules of names on demand: which names they govern, and how many new ones there may be."""

from datetime import UTC, datetime, timedelta

import pytest

from sds_server.on_demand.rules import (
    LIMIT_HOUR,
    Budget,
    Result,
    Rule,
    Verdict,
    decide,
    dns_name,
    may_wish,
    rule_of,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SHOPS = Rule("shops", "ca", suffix=".shops.test", depth=2, per_identity=3, per_domain=5, max_names=10)
EXACT = Rule("exact", "ca", names=frozenset({"www.test", "api.test"}))
ASKED = Rule("asked", "ca", ask="http://127.0.0.1/ask")


@pytest.mark.parametrize(
    ("rule", "name", "governed"),
    [
        (SHOPS, "a.shops.test", True),
        (SHOPS, "c.b.a.shops.test", True),  # to say no
        (SHOPS, "shops.test", False),
        (SHOPS, "ashops.test", False),
        (EXACT, "www.test", True),
        (EXACT, "a.www.test", False),
        (ASKED, "anything.example", True),
        (ASKED, "default", False),  # what a selector says when a client sends no SNI
    ],
)
def test_a_rule_governs_the_names_that_it_says(rule, name, governed):
    assert governed == rule.governs(name)


def test_the_first_rule_that_governs_a_name_decides():
    assert [SHOPS, EXACT, ASKED, None] == [
        rule_of([SHOPS, EXACT, ASKED], name) for name in ("a.shops.test", "api.test", "shops.test", "x")
    ]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("MiXed.Shops.Test", "mixed.shops.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
        ("a.test.", "a.test"),
        ("*.shops.test", None),
        ("192.0.2.1", None),
        ("under_score.test", None),
        ("xn--a.test", None),
        ("", None),
    ],
)
def test_a_name_is_read_as_dns_writes_it(asked, name):
    assert name == dns_name(asked)


@pytest.mark.parametrize(
    ("name", "may_issue", "why_not"),
    [
        ("a.shops.test", True, None),
        ("b.a.shops.test", True, None),
        ("c.b.a.shops.test", True, Result.TOO_DEEP),
        ("a.shops.test", False, Result.NO_GRANT),
    ],
)
def test_a_wish_needs_a_grant_and_no_more_labels_than_may_be(name, may_issue, why_not):
    assert why_not == may_wish(SHOPS, name, may_issue=may_issue)


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        (Budget(), Verdict(Result.CREATED)),
        (Budget(names=9, of_identity=2, of_domain=4), Verdict(Result.CREATED)),
        (Budget(names=10), Verdict(Result.FULL, NOW + timedelta(seconds=60))),
        (
            Budget(of_identity=3, identity_again=NOW + timedelta(minutes=5)),
            Verdict(Result.IDENTITY_LIMIT, NOW + timedelta(minutes=5)),
        ),
        (
            Budget(of_domain=5, domain_again=NOW + timedelta(days=2)),
            Verdict(Result.DOMAIN_LIMIT, NOW + timedelta(days=2)),
        ),
        (Budget(of_identity=3), Verdict(Result.IDENTITY_LIMIT, NOW + LIMIT_HOUR)),
    ],
)
def test_a_limit_says_which_it_is_and_when_there_is_room_again(budget, verdict):
    assert verdict == decide(SHOPS, budget, now=NOW)


def test_new_names_are_counted_by_the_suffix_or_by_the_last_two_labels():
    assert ["shops.test", "example.com"] == [
        SHOPS.domain("b.a.shops.test"),
        ASKED.domain("a.b.example.com"),
    ]
