"""Which standing records permit our account."""

from datetime import UTC, datetime

import pytest

from acme_engine.dns_persist01 import permits

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
    assert expected is permits([text], ["ca.example", "ca2.example"], ACCOUNT, now=NOW)


def test_one_of_several_will_do():
    assert permits(["v=spf1 -all", f"ca2.example; {OURS}"], ["ca.example", "ca2.example"], ACCOUNT, now=NOW)
