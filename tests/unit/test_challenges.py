"""How names are proved: what stands around a provider of DNS changes nothing of what it is told."""

import pytest

from acme_engine.dns.zones import Zones
from acme_engine.dns01 import Propagation
from sds_server.clock import SystemClock
from sds_server.lifecycle.challenges import Challenges, Dns, WatchedProvider
from tests.support.dns_memory import MemoryDns


@pytest.mark.parametrize("hashes", [True, False])
def test_a_watched_provider_hashes_by_itself_as_the_one_inside_does(hashes):
    dns = MemoryDns()
    dns.hashes = hashes

    assert hashes is WatchedProvider(dns).hashes


@pytest.mark.parametrize(
    ("default", "choices", "name", "expected"),
    [
        ("http-01", {}, "www.a.test", ["http-01", "dns-01"]),
        ("dns-account-01", {}, "www.a.test", ["dns-account-01", "http-01", "dns-01"]),
        ("dns-account-01", {}, "*.a.test", ["dns-account-01", "dns-01"]),
        ("http-01", {"*.a.test": "dns-account-01"}, "www.a.test", ["dns-account-01", "http-01", "dns-01"]),
        ("http-01", {"*.a.test": "dns-account-01"}, "a.test", ["http-01", "dns-01", "dns-account-01"]),
    ],
)
def test_a_draft_is_answered_where_somebody_has_chosen_it(default, choices, name, expected):
    """The others are for a CA that does not offer what is preferred."""
    dns = Dns(MemoryDns(), Zones(), Propagation())
    challenges = Challenges(dns=dns, default=default, choices=choices)
    solvers = challenges.solvers(None, None, "internal", SystemClock())

    assert expected == [solver.challenge_type for solver in solvers.of(name)]
