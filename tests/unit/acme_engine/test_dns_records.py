"""Records about an account: the drafts' own examples, and texts longer than one string."""

from datetime import UTC, datetime

from acme_engine.dns_records import (
    account_record_name,
    persist_record_name,
    persist_record_text,
    zone_file_line,
)

ACCOUNT = "https://ca.example/acct/123"


def test_an_account_has_a_name_of_its_own_at_a_domain():
    """draft-ietf-acme-dns-account-label, its own example."""
    account = "https://example.com/acme/acct/ExampleAccount"

    assert "_ujmmovf2vn55tgye._acme-challenge.example.org" == account_record_name("example.org", account)


def test_a_wildcard_s_records_stand_at_its_parent():
    assert "_validation-persist.example.com" == persist_record_name("*.example.com")
    assert account_record_name("*.example.com", ACCOUNT) == account_record_name("example.com", ACCOUNT)


def test_the_text_says_who_may_and_for_how_long():
    until = datetime(2024, 7, 26, tzinfo=UTC)

    assert f"authority.example; accounturi={ACCOUNT}" == persist_record_text("authority.example", ACCOUNT)
    assert (
        f"authority.example; accounturi={ACCOUNT}; policy=wildcard; persistUntil=1721952000"
        == persist_record_text("authority.example", ACCOUNT, wildcard=True, until=until)
    )


def test_a_long_text_is_several_strings():
    line = zone_file_line("_validation-persist.example.com", "x" * 300)

    assert f'_validation-persist.example.com. IN TXT "{"x" * 255}" "{"x" * 45}"' == line
