"""What is known of a provider of DNS before it is imported, and what of its words is kept."""

import pytest

from acme_engine.dns import table
from acme_engine.dns.provider import MAX_WORDS, scrub
from acme_engine.dns.table import Registration, Setting, provider_of, validated
from acme_engine.errors import Misconfigured


def _even(value):
    if int(value) % 2:
        raise ValueError("must be even")


@pytest.fixture(autouse=True)
def providers(monkeypatch):
    made = []
    settings = (
        Setting("server", "Who is asked.", required=True),
        Setting("port", "Where.", default="54", check=_even),
        Setting("token", "Who we are.", credential=True),
    )
    monkeypatch.setattr(table, "PROVIDERS", {"paper": Registration("On paper.", settings, made.append)})
    return made


def test_settings_get_their_defaults():
    assert {"server": "ns", "port": "54"} == validated("paper", {"server": "ns"})
    assert {"server": "ns", "port": "56"} == validated("paper", {"server": "ns", "port": "56"})


def test_a_provider_gets_the_settings_with_their_defaults(providers):
    provider_of("paper", {"server": "ns"})

    assert [{"server": "ns", "port": "54"}] == providers


def test_a_provider_that_nobody_knows_is_refused_with_those_that_there_are():
    with pytest.raises(Misconfigured, match="'stone'") as e:
        provider_of("stone", {})

    assert "there are: paper" == e.value.hint


def test_all_that_is_wrong_with_settings_is_said_at_once():
    with pytest.raises(Misconfigured) as e:
        validated("paper", {"port": "55", "colour": "red"})

    assert (
        "paper: colour: is not a setting of paper; it has: server, port, token;"
        " server: is missing; port: must be even" == str(e.value)
    )


def test_words_of_a_provider_lose_our_credentials():
    """A longer credential first: it may begin with a shorter one."""
    assert "key [removed] of [removed] is wrong" == scrub(
        "key s3cret-long of s3cret is wrong", ["s3cret", "s3cret-long", ""]
    )


def test_words_of_a_provider_are_one_short_line():
    assert "no such zone" == scrub("no\r\n\tsuch\x1b zone\n", [])
    assert MAX_WORDS == len(scrub("x" * 10_000, []))
