"""DNS-01: what is published, in which order it is written down, and what is left behind (RFC 8555 8.4)."""

import asyncio
import hashlib
from base64 import urlsafe_b64decode
from dataclasses import replace

import pytest

from acme_engine import dns01
from acme_engine.dns.zones import Zones
from acme_engine.dns01 import Dns01Solver, Mode, Propagation, record_name, record_value, withdraw
from acme_engine.dns_account01 import DnsAccount01Solver
from acme_engine.errors import BadReply, DnsProviderError
from acme_engine.messages import Challenge, Identifier
from tests.support.dns_memory import MemoryDns, MemoryLedger

KEY_AUTHORIZATION = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
OWNER = "_acme-challenge.example.org"
CHALLENGE = Challenge("dns-01", "https://ca.example/1", "pending", "t" * 43, None)
PROOF = Identifier("dns", "example.org"), CHALLENGE, KEY_AUTHORIZATION


@pytest.fixture
def dns():
    return MemoryDns()


@pytest.fixture
def ledger():
    return MemoryLedger()


@pytest.fixture
def slept():
    return []


@pytest.fixture
def solver(dns, ledger, slept):
    async def sleep(pause_s):
        slept.append(pause_s)

    # Nobody is asked: what servers say is tested with real ones.
    propagation = Propagation(Mode.OFF, follow_aliases=False)
    return Dns01Solver(dns, ledger, zones=Zones(), propagation=propagation, sleep=sleep)


def test_the_record_stands_beside_the_name_and_a_wildcard_s_beside_its_parent():
    assert OWNER == record_name("example.org") == record_name("*.example.org")


def test_the_value_is_the_digest_of_the_key_authorization_in_base64url_without_padding():
    value = record_value(KEY_AUTHORIZATION)

    assert 43 == len(value)
    assert hashlib.sha256(KEY_AUTHORIZATION.encode()).digest() == urlsafe_b64decode(f"{value}=")


async def test_a_provider_that_hashes_is_told_the_key_authorization_and_so_is_whoever_cleans_up(
    solver, dns, ledger
):
    """After a crash the ledger is all that is left, and a digest cannot be undone."""
    dns.hashes = True
    await solver.present(*PROOF)

    assert [("add", OWNER, KEY_AUTHORIZATION)] == dns.calls
    assert [(OWNER, KEY_AUTHORIZATION)] == ledger.rows

    await solver.cleanup(*PROOF)

    assert ("remove", OWNER, KEY_AUTHORIZATION) == dns.calls[-1]
    assert [] == ledger.rows


async def test_at_an_account_s_own_name_all_else_is_the_same(dns, ledger):
    """draft-ietf-acme-dns-account-label, with the account and the label of its example."""
    account = "https://example.com/acme/acct/ExampleAccount"
    proof = PROOF[0], replace(CHALLENGE, type="dns-account-01", account=account), KEY_AUTHORIZATION
    solver = DnsAccount01Solver(
        dns, ledger, zones=Zones(), propagation=Propagation(Mode.OFF, follow_aliases=False)
    )
    await solver.present(*proof)
    await solver.ready(*proof)
    await solver.cleanup(*proof)
    owner, value = "_ujmmovf2vn55tgye._acme-challenge.example.org", record_value(KEY_AUTHORIZATION)

    assert [("add", owner, value), ("remove", owner, value)] == dns.calls
    assert [] == ledger.rows


async def test_without_an_account_there_is_no_name_of_its_own(dns, ledger):
    with pytest.raises(BadReply, match="for no account"):
        await DnsAccount01Solver(dns, ledger, zones=Zones()).present(*PROOF)

    assert [] == dns.calls


async def test_a_value_is_written_down_before_anybody_is_asked_to_publish_it(solver, dns, ledger):
    dns.fails = DnsProviderError("no", retryable=True)
    with pytest.raises(DnsProviderError):
        await solver.present(*PROOF)

    assert [(OWNER, record_value(KEY_AUTHORIZATION))] == ledger.rows


async def test_a_value_is_removed_before_it_is_forgotten(solver, dns, ledger):
    await solver.present(*PROOF)
    dns.fails = DnsProviderError("no", retryable=True)
    with pytest.raises(DnsProviderError):
        await solver.cleanup(*PROOF)

    assert 1 == len(ledger.rows)

    dns.fails = None
    await withdraw(dns, ledger, *ledger.rows[0])

    assert ([], set()) == (ledger.rows, dns.values[OWNER])


async def test_what_was_presented_twice_is_cleaned_once(solver, dns, ledger):
    """An order that is resumed after a crash presents the same challenge again."""
    await solver.present(*PROOF)
    await solver.present(*PROOF)
    await solver.cleanup(*PROOF)
    await solver.cleanup(*PROOF)

    assert ([], set()) == (ledger.rows, dns.values[OWNER])


async def test_what_was_never_presented_costs_no_call(solver, dns):
    await solver.cleanup(*PROOF)

    assert [] == dns.calls


async def test_a_value_that_was_not_added_because_of_cancellation_is_removed_all_the_same(solver, dns):
    class Stuck(MemoryDns):
        async def add(self, name, value):
            await super().add(name, value)
            await asyncio.Event().wait()

    stuck = Stuck()
    solver._provider = stuck
    task = asyncio.create_task(solver.present(*PROOF))
    while not stuck.values:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await solver.cleanup(*PROOF)

    assert set() == stuck.values[OWNER]


async def test_a_provider_that_hangs_is_given_up_and_tried_again_later(solver, dns, monkeypatch):
    monkeypatch.setattr(dns01, "CALL_TIMEOUT_S", 0.01)

    async def hang(_name, _value):
        await asyncio.Event().wait()

    dns.add = hang
    with pytest.raises(DnsProviderError, match="no answer in") as e:
        await solver.present(*PROOF)

    assert e.value.retryable


@pytest.mark.parametrize(
    ("propagation", "expected"),
    [
        (Propagation(), 600),
        (Propagation(Mode.RECURSIVE, wait_s=5, limit_s=100), 105),
        (Propagation(Mode.WAIT, wait_s=30), 30),
        (Propagation(Mode.OFF), 0),
    ],
)
def test_it_says_how_long_it_may_take(dns, ledger, propagation, expected):
    assert expected == Dns01Solver(dns, ledger, zones=Zones(), propagation=propagation).patience_s


async def test_a_fixed_wait_is_taken_and_nobody_is_asked(dns, ledger, slept):
    async def sleep(pause_s):
        slept.append(pause_s)

    propagation = Propagation(Mode.WAIT, wait_s=30, follow_aliases=False)
    solver = Dns01Solver(
        dns, ledger, zones=Zones(resolvers=["127.0.0.1:1"]), propagation=propagation, sleep=sleep
    )
    await solver.present(*PROOF)
    await solver.ready(*PROOF)

    assert [30] == slept
