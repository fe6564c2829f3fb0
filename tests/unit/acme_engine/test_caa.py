"""Who may issue: RFC 8659 section 4, RFC 8657 sections 3 and 4."""

import pytest

from acme_engine.caa import Caa, judge

OURS = Caa(0, "issue", "ca.example")
THEIRS = Caa(0, "issue", "other.example")
NOBODY = Caa(0, "issue", ";")


def allowed(*records, wildcard=False, identities=("ca.example",), method="http-01", **more):
    return judge(records, wildcard=wildcard, identities=identities, method=method, **more).allowed


@pytest.mark.parametrize(
    ("records", "wildcard", "may"),
    [
        ([], False, True),
        ([OURS], False, True),
        ([THEIRS], False, False),
        ([THEIRS, OURS], False, True),
        ([NOBODY], False, False),
        ([Caa(0, "iodef", "mailto:ops@example.com")], False, True),
        ([Caa(0, "issue", " CA.Example ; policy=ev")], False, True),
        # "issue" counts for wildcards where there is no "issuewild", which counts for nothing else.
        ([OURS], True, True),
        ([OURS, Caa(0, "issuewild", ";")], True, False),
        ([OURS, Caa(0, "issuewild", ";")], False, True),
        ([Caa(0, "issuewild", "ca.example")], True, True),
        ([THEIRS, Caa(0, "issuewild", "ca.example")], True, True),
        ([Caa(0, "issuewild", "other.example")], False, True),
    ],
)
def test_the_tag_and_the_name_of_the_ca_decide(records, wildcard, may):
    assert may is allowed(*records, wildcard=wildcard)


def test_a_critical_tag_that_is_not_known_forbids_all():
    assert not allowed(OURS, Caa(128, "tbs", "unknown"))
    assert allowed(OURS, Caa(0, "tbs", "unknown"))
    assert allowed(Caa(128, "issue", "ca.example"))


def test_a_record_may_allow_some_methods_alone():
    dns_only = Caa(0, "issue", "ca.example; validationmethods=dns-01,tls-alpn-01")

    assert not allowed(dns_only)
    assert allowed(dns_only, method="dns-01")
    assert allowed(dns_only, OURS), "another record of the same CA allows it"


def test_a_record_may_be_for_one_account():
    bound = Caa(0, "issue", "ca.example; accounturi=https://ca.example/acct/1")

    assert allowed(bound, account_url="https://ca.example/acct/1")
    assert not allowed(bound, account_url="https://ca.example/acct/2")
    assert allowed(bound), "not known yet"


def test_the_reason_shows_the_record():
    said = judge([THEIRS], wildcard=False, identities=["ca.example"], method="http-01")

    assert '0 issue "other.example" does not allow ca.example' == said.reason
