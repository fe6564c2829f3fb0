"""How names are proved: what stands around a provider of DNS changes nothing of what it is told."""

import pytest

from sds_server.lifecycle.challenges import WatchedProvider
from tests.support.dns_memory import MemoryDns


@pytest.mark.parametrize("hashes", [True, False])
def test_a_watched_provider_hashes_by_itself_as_the_one_inside_does(hashes):
    dns = MemoryDns()
    dns.hashes = hashes

    assert hashes is WatchedProvider(dns).hashes
