"""How names are proved: what stands around a provider of DNS changes nothing of what it is told."""

import pytest

from acme_engine.dns.zones import Zones
from acme_engine.dns01 import Propagation
from acme_engine.memory import MemoryTokens
from acme_engine.webroot import Webroot
from sds_server.clock import SystemClock
from sds_server.lifecycle.challenges import Beside, Challenges, Dns, WatchedProvider
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


async def test_a_token_s_row_stays_until_its_file_is_gone(tmp_path):
    """Whoever finds the row removes both; a file without one is found by nobody."""
    token, tokens = "t" * 43, MemoryTokens()
    store = Beside(tokens, Webroot(tmp_path))
    await store.put(token, "answer", ttl_s=60)
    file = tmp_path / ".well-known" / "acme-challenge" / token
    file.unlink()
    file.mkdir()  # so it cannot be removed
    with pytest.raises(OSError):
        await store.delete(token)

    assert "answer" == await tokens.get(token)
