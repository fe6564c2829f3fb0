"""Nothing of ours stays in DNS: what attempts left there is removed, once, by whoever comes first."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from acme_engine.errors import DnsProviderError
from sds_server.inventory import challenge_values, rotations
from sds_server.inventory.challenge_values import RotationValues
from sds_server.lifecycle.withdrawer import HOLD_FOR, Withdrawer
from tests.support.databases import turn_clock
from tests.support.dns_memory import MemoryDns

NAME = "_acme-challenge.www.example.test"


@pytest.fixture
def dns():
    return MemoryDns()


@pytest.fixture
def withdrawer(database, dns):
    return Withdrawer(database=database, providers={"internal": dns})


@pytest.fixture
async def lease(issuances):
    await issuances.declare()
    return (await issuances.claim()).lease


@pytest.fixture
async def published(database, dns, lease):
    """A value that an attempt has published; whoever made it is killed now."""
    values = RotationValues(database, lease.rotation, "internal")
    await values.put(NAME, "value")
    await dns.add(NAME, "value")
    return values


async def left(sql):
    return [tuple(row) for row in await sql.fetch("SELECT name, value FROM challenge_value")]


@pytest.fixture
def fails(database, lease):
    async def fails():
        """The attempt ends without a certificate."""
        await rotations.fail(database, lease, error={"what": "no"}, pause=timedelta(0), actor="r")

    return fails


async def test_a_value_stays_while_its_attempt_goes_on(published, withdrawer, dns, sql):
    await turn_clock(sql, timedelta(minutes=30))
    await withdrawer.step()

    assert {"value"} == dns.values[NAME]
    assert 1 == len(await left(sql))


async def test_what_an_attempt_left_is_removed_when_it_ends(published, withdrawer, dns, sql, fails):
    await fails()
    await withdrawer.step()

    assert (set(), []) == (dns.values[NAME], await left(sql))


async def test_what_nobody_said_to_be_over_is_removed_after_an_hour(published, withdrawer, dns, sql):
    await turn_clock(sql, timedelta(hours=1, seconds=1))
    await withdrawer.step()

    assert (set(), []) == (dns.values[NAME], await left(sql))


async def test_what_the_attempt_removed_itself_costs_no_second_call(published, withdrawer, dns, sql, fails):
    await dns.remove(NAME, "value")
    await published.delete(NAME, "value")
    await fails()
    calls = len(dns.calls)
    await withdrawer.step()

    assert calls == len(dns.calls)
    assert [] == await left(sql)


async def test_what_could_not_be_removed_is_tried_again_later(published, withdrawer, dns, sql, fails):
    await fails()
    dns.fails = DnsProviderError("no", retryable=True)
    await withdrawer.step()
    calls = len(dns.calls)
    await withdrawer.step()

    assert calls == len(dns.calls), "not at once"
    assert 1 == len(await left(sql))

    dns.fails = None
    await turn_clock(sql, timedelta(minutes=10, seconds=1))
    await withdrawer.step()

    assert [] == await left(sql)


async def test_an_issuer_whose_provider_this_replica_has_not_is_left_to_others(
    published, database, sql, dns, fails
):
    await fails()
    await Withdrawer(database=database, providers={"other": dns}).step()

    assert 1 == len(await left(sql))


async def test_what_cannot_be_removed_for_a_week_is_given_up_and_said(published, database, sql, fails):
    await fails()
    await turn_clock(sql, timedelta(days=7, seconds=1))
    with capture_logs() as logs:
        await Withdrawer(database=database, providers={}).step()

    assert [("value.abandoned", NAME)] == [(entry["event"], entry["name"]) for entry in logs]
    assert [] == await left(sql)


async def test_two_replicas_remove_it_once(published, withdrawer, dns, database, fails):
    await fails()
    second = Withdrawer(database=database, providers={"internal": dns})
    await asyncio.gather(withdrawer.step(), second.step())

    assert 1 == sum(call == ("remove", NAME, "value") for call in dns.calls)


async def test_a_value_is_not_published_again_while_it_is_being_removed(
    published, database, lease, sql, fails
):
    """Else the removal, which was begun before, would take away what the next attempt needs."""
    await fails()
    (due,) = await challenge_values.take_due(database, ["internal"], hold_for=HOLD_FOR, limit=8)
    slept = []

    async def sleep(pause_s):
        slept.append(pause_s)
        await challenge_values.removed(database, due)

    await RotationValues(database, lease.rotation, "internal", sleep=sleep).put(NAME, "value")

    assert 1 == len(slept)
    assert [(NAME, "value")] == await left(sql)


async def test_a_remover_that_died_holds_nobody_up_for_ever(published, database, sql, fails):
    await fails()
    (due,) = await challenge_values.take_due(database, ["internal"], hold_for=HOLD_FOR, limit=8)
    await turn_clock(sql, HOLD_FOR + timedelta(seconds=1))
    await published.put(NAME, "value")
    await challenge_values.removed(database, due)

    assert [(NAME, "value")] == await left(sql), "its word counts no more"


async def test_it_gives_the_providers_connections_back(withdrawer, dns):
    await withdrawer.close()

    assert dns.closed
