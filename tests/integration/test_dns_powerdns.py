"""Zones at a real PowerDNS by its HTTP API: sets that others write too, zones, what secondaries are told."""

import pytest

from acme_engine.dns.table import provider_of
from acme_engine.errors import DnsProviderError
from tests.support.dns_apis import SECRET, Front, planned
from tests.support.pdns import Pdns

pytestmark = pytest.mark.debian

NAME = "_acme-challenge.www.sub.example.test"


@pytest.fixture
async def pdns(tmp_path):
    running = await Pdns.start(tmp_path / "pdns", "example.test", "sub.example.test", kind="Master")
    yield running
    await running.stop()


@pytest.fixture
async def front(pdns):
    async with Front(pdns.url) as made:
        yield made


@pytest.fixture
def overwrites(front, pdns, monkeypatch):
    """Have somebody put a set of his own in the place of what we wrote."""
    monkeypatch.setattr("acme_engine.dns.powerdns.SETTLE_S", 0.0)
    answer, left = front.answer, []

    async def answer_and_undo(request):
        reply = await answer(request)
        if request.method == "PATCH" and left:
            left.pop()
            await pdns.write("sub.example.test", NAME, [{"content": '"theirs"', "disabled": False}])
        return reply

    monkeypatch.setattr(front, "answer", answer_and_undo)
    return lambda times: left.extend([None] * times)


@pytest.fixture
async def opened(front):
    made = []

    def opened(**settings):
        made.append(provider_of("powerdns", {"endpoint": front.url, "api_key": SECRET, **settings}))
        return made[-1]

    yield opened
    for provider in made:
        await provider.close()


async def test_a_value_that_another_replica_overwrites_is_written_again(opened, overwrites, pdns):
    """It has a lock of its own, had read the set before we wrote, and wrote it back whole."""
    overwrites(times=1)
    await opened().add(NAME, "value")

    assert {"theirs", "value"} == await pdns.txt(NAME)


async def test_the_zone_is_the_closest_one_and_its_secondaries_are_told(opened, front):
    await opened().add(NAME, "value")

    assert ("PATCH", "/api/v1/servers/localhost/zones/sub.example.test.") in front.asked
    assert ("PUT", "/api/v1/servers/localhost/zones/sub.example.test./notify") in front.asked


async def test_secondaries_that_cannot_be_told_hinder_nothing(opened, front, pdns, monkeypatch):
    answer = front.answer

    async def no_notify(request):
        return planned(500) if request.method == "PUT" else await answer(request)

    monkeypatch.setattr(front, "answer", no_notify)
    await opened().add(NAME, "value")

    assert {"value"} == await pdns.txt(NAME)


async def test_a_zone_that_is_not_there_is_said(opened):
    with pytest.raises(DnsProviderError, match="has no zone that it is in") as e:
        await opened().add("_acme-challenge.www.other.test", "value")

    assert not e.value.retryable


async def test_a_zone_that_is_named_is_not_looked_for(opened):
    with pytest.raises(DnsProviderError, match="is out of zone"):
        await opened(zone="example.test").add("_acme-challenge.www.other.test", "value")


async def test_what_is_there_already_stays_and_keeps_its_ttl(opened, pdns):
    await pdns.write("sub.example.test", NAME, [{"content": '"theirs"', "disabled": False}], ttl_s=300)
    await opened().add(NAME, "value")

    assert {"theirs", "value"} == await pdns.txt(NAME)
    assert 300 == (await pdns.rrset("sub.example.test", NAME))["ttl"]


async def test_caches_may_keep_a_first_value_for_a_minute(opened, pdns):
    await opened().add(NAME, "value")

    assert 60 == (await pdns.rrset("sub.example.test", NAME))["ttl"]


async def test_who_never_gets_the_last_word_gives_up(opened, overwrites, pdns):
    overwrites(times=100)
    with pytest.raises(DnsProviderError, match="somebody else changes the set all the time") as e:
        await opened().add(NAME, "value")

    assert e.value.retryable
    assert {"theirs"} == await pdns.txt(NAME)
