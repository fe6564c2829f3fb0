"""Which standing records permit our account."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_engine.dns_persist01 import Permission, permitted

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ACCOUNT = "https://ca.example/acct/1"
OURS = f"accounturi={ACCOUNT}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"ca.example; {OURS}", True),
        (f"CA.Example;AccountURI={ACCOUNT};policy=wildcard", True),
        (f"ca.example; {OURS}; persistUntil={int(NOW.timestamp()) + 1}", True),
        (f"ca.example; {OURS}; persistUntil={int(NOW.timestamp())}", False),
        (f"ca.example; {OURS}; persistUntil=tomorrow", False),
        (f"other.example; {OURS}", False),
        (f"ca.example; {OURS}0", False),
        ("ca.example", False),
        ("", False),
    ],
)
def test_a_record_is_for_one_ca_one_account_and_until_it_says(text, expected):
    found = permitted([text], ["ca.example", "ca2.example"], ACCOUNT, wildcard=False, now=NOW)

    assert expected is (found is not None)


def test_one_of_several_will_do_and_the_one_that_lasts_longest_counts():
    soon = f"ca.example; {OURS}; persistUntil={int(NOW.timestamp()) + 1}"
    texts = ["v=spf1 -all", soon, f"ca2.example; {OURS}"]
    identities = ["ca.example", "ca2.example"]

    assert Permission(None) == permitted(texts, identities, ACCOUNT, wildcard=False, now=NOW)
    assert Permission(NOW + timedelta(seconds=1)) == permitted(
        texts[:2], identities, ACCOUNT, wildcard=False, now=NOW
    )


def test_a_permission_beyond_all_dates_lasts():
    text = f"ca.example; {OURS}; persistUntil={'9' * 30}"

    assert Permission(None) == permitted([text], ["ca.example"], ACCOUNT, wildcard=False, now=NOW)


@pytest.mark.parametrize(
    ("policy", "expected"), [("", False), ("; policy=other", False), ("; Policy=Wildcard", True)]
)
def test_names_below_are_permitted_by_the_policy_alone(policy, expected):
    found = permitted([f"ca.example; {OURS}{policy}"], ["ca.example"], ACCOUNT, wildcard=True, now=NOW)

    assert expected is (found is not None)
