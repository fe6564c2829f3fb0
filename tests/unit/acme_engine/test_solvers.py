"""Which Solver proves which name."""

import pytest

from acme_engine.errors import Unsolvable
from acme_engine.messages import Authorization, Challenge, Identifier
from acme_engine.solver import Solvers


class Named:
    def __init__(self, kind, patience_s=0.0):
        self.challenge_type, self.patience_s = kind, patience_s


HTTP, DNS = Named("http-01"), Named("dns-01", 600.0)
BOTH = Solvers([HTTP, DNS])


def authorization(name, *kinds):
    return Authorization(
        "https://ca.example/1",
        "pending",
        Identifier("dns", name.removeprefix("*.")),
        tuple(Challenge(kind, f"https://ca.example/{kind}", "pending", "t" * 43, None) for kind in kinds),
        wildcard=name.startswith("*."),
    )


def test_the_first_one_proves_a_name_for_which_nothing_is_preferred():
    assert HTTP is BOTH.choose(authorization("www.example.com", "dns-01", "http-01"))[0]


def test_a_preferred_challenge_is_taken_where_it_is_offered():
    solvers = Solvers([HTTP, DNS], prefer=lambda name: "dns-01" if name == "a.example.com" else None)

    assert DNS is solvers.choose(authorization("a.example.com", "http-01", "dns-01"))[0]
    assert HTTP is solvers.choose(authorization("a.example.com", "http-01"))[0]
    assert HTTP is solvers.choose(authorization("b.example.com", "http-01", "dns-01"))[0]


def test_a_wildcard_is_proved_by_dns_whatever_is_preferred():
    solvers = Solvers([HTTP, DNS], prefer=lambda _name: "http-01")

    assert DNS is solvers.choose(authorization("*.example.com", "http-01", "dns-01"))[0]


def test_dns_proves_no_address():
    """RFC 8738 section 7."""
    Solvers([HTTP]).check(["192.0.2.1"])
    with pytest.raises(Unsolvable, match=r"192\.0\.2\.1: an address cannot be proved by dns-01"):
        Solvers([DNS]).check(["192.0.2.1"])


def test_a_ca_that_offers_a_wildcard_nothing_but_http_is_refused():
    with pytest.raises(Unsolvable, match=r"\*\.example\.com: no dns-01 challenge .* the CA offers http-01"):
        BOTH.choose(authorization("*.example.com", "http-01"))


def test_challenges_that_nobody_knows_are_passed_over():
    assert DNS is BOTH.choose(authorization("a.example.com", "dns-persist-01", "dns-01"))[0]


def test_a_wildcard_without_dns_is_refused_before_anything_is_sent():
    with pytest.raises(Unsolvable, match="cannot be proved by http-01"):
        Solvers([HTTP]).check(["example.com", "*.example.com"])

    BOTH.check(["example.com", "*.example.com"])


def test_the_patience_is_that_of_who_will_prove_the_names():
    assert 0 == BOTH.patience_s(["example.com"])
    assert 600 == BOTH.patience_s(["example.com", "*.example.com"])
