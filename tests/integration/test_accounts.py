"""Our account at a CA, on Pebble: one for all replicas, another key, its end, and a CA that forgot it."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from acme_engine.errors import Action, Refused
from sds_server.assembly import build_accounts
from sds_server.clock import SystemClock
from sds_server.errors import OrderedTooOften
from sds_server.instruments import watch_accounts
from sds_server.inventory import accounts as inventory
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.limits import Counted, Limit, Preset
from sds_server.metrics import Metrics
from tests.support.ca_front import CaFront
from tests.support.exposition import samples
from tests.support.issuances import Issuances

pytestmark = pytest.mark.debian

PER_SECOND = 5


@pytest.fixture
def issuer(pebble):
    return Issuer(
        name="internal",
        directory_url=pebble.directory_url,
        ca_file=pebble.ca_file,
        roots=(),
        contact=("mailto:one@example.test",),
        terms_agreed=True,
        eab=None,
    )


@pytest.fixture
async def replica(database, tmp_path):
    """Make the accounts of one replica more."""
    sealer = (await Issuances.open(database, tmp_path)).sealer
    return lambda: Accounts(database=database, sealer=sealer, actor="replica:test")


async def order(accounts, issuer):
    """Order something; the CA only takes it from whom it knows."""
    async with accounts.client(issuer, await accounts.ensure(issuer)) as client:
        return await client.new_order(["www.example.test"])


async def actions(sql):
    return [
        row[0]
        for row in await sql.fetch("SELECT action FROM certaudit WHERE action LIKE 'account.%' ORDER BY id")
    ]


async def test_replicas_that_start_together_have_one_account(replica, issuer, sql):
    found = await asyncio.gather(*(replica().ensure(issuer) for _ in range(5)))

    assert 1 == len({account.url for account in found})
    assert 1 == await sql.fetchval("SELECT count(*) FROM acme_account")


async def test_orders_share_what_a_ca_told_before(replica, issuer, pebble):
    """A directory and a nonce for each order would be two requests of nine."""
    accounts = replica()
    await order(accounts, issuer)
    before = pebble.requests("GET"), pebble.requests("HEAD"), pebble.requests("POST")
    await order(accounts, issuer)
    await order(accounts, issuer)

    assert (before[0], before[1], before[2] + 2) == tuple(map(pebble.requests, ("GET", "HEAD", "POST")))


async def test_a_nonce_that_the_ca_refuses_is_counted_and_the_order_goes_on(replica, issuer):
    accounts, told = replica(), Metrics(version="1")
    watch_accounts(accounts, issuers=[issuer.name], to=told)
    await order(accounts, issuer)
    client = accounts.client(issuer, await accounts.ensure(issuer))
    async with client:
        client._transport._keep_nonce(["never-given"])
        await client.new_order(["www.example.test"])

    assert 1 == samples(told.exposition())["certvoy_acme_bad_nonces_total", issuer.name]


async def test_the_account_has_another_key_and_other_replicas_go_on_with_it(replica, issuer, sql):
    one, two = replica(), replica()
    before, _ = await one.ensure(issuer), await two.ensure(issuer)
    after = await one.change_key(issuer, actor="person:test")
    await order(one, issuer)
    await order(two, issuer)

    assert (before.url, True) == (after.url, before.key_id != after.key_id)
    assert ["account.key_planned", "account.key_changed"] == (await actions(sql))[-2:]


async def test_the_old_key_is_the_ca_s_stranger(replica, issuer):
    one = replica()
    before = await one.ensure(issuer)
    await one.change_key(issuer, actor="person:test")
    async with one.client(issuer, before) as client:
        with pytest.raises(Refused):
            await client.new_order(["www.example.test"])


async def test_a_change_that_the_ca_made_and_nobody_heard_of_is_found_out(replica, issuer, monkeypatch):
    """Killed behind the CA's yes: the next one asks which key the account has."""

    async def killed(*_args, **_more):
        raise KeyboardInterrupt

    one = replica()
    before = await one.ensure(issuer)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(inventory, "key_changed", killed)
        await one.change_key(issuer, actor="person:test")
    two = replica()
    await order(two, issuer)

    assert before.key_id != (await two.ensure(issuer)).key_id


async def test_a_change_that_never_reached_the_ca_leaves_the_old_key_and_goes_on_later(
    replica, issuer, database, monkeypatch
):
    one = replica()
    before = await one.ensure(issuer)
    stored = await inventory.get(database, issuer.directory_url)
    await inventory.plan_key(database, issuer.directory_url, stored, await one._seal(), actor="r")
    two = replica()
    still = await two.ensure(issuer)
    await order(two, issuer)
    after = await two.change_key(issuer, actor="person:test")

    assert (before.key_id, before.url) == (still.key_id, after.url)
    assert before.key_id != after.key_id


async def test_a_ca_that_does_not_say_whose_key_it_is_has_nothing_ordered_by_a_guess(
    replica, issuer, pebble, database, tmp_path
):
    """The old key may be nobody's any more: neither of both is used until the CA has said which."""
    front = CaFront(tmp_path, upstream=pebble.directory_url, upstream_ca=pebble.ca_file)
    await front.open()
    there = replace(issuer, directory_url=front.directory_url, ca_file=front.ca_file)
    one = replica()
    await one.ensure(there)
    stored = await inventory.get(database, there.directory_url)
    await inventory.plan_key(database, there.directory_url, stored, await one._seal(), actor="r")
    two = replica()
    front.answer("/sign-me-up", 503, "{}", Retry_After="5")
    with pytest.raises(Refused) as refused:
        await order(two, there)
    await order(two, there)
    await front.shut()

    assert Action.WAIT is refused.value.problem.rule.action


async def test_the_ca_is_told_the_contacts_of_the_configuration(replica, issuer, sql):
    moved = replace(issuer, contact=("mailto:two@example.test",))
    await replica().tell_contact(moved, actor="person:test")

    assert "account.contact_told" in await actions(sql)
    assert "two@example.test" in await sql.fetchval(
        "SELECT payload FROM certaudit WHERE action = 'account.contact_told'"
    )


async def test_contacts_that_the_ca_does_not_take_are_refused_in_its_words(replica, issuer):
    with pytest.raises(Refused) as refused:
        await replica().tell_contact(replace(issuer, contact=("tel:123",)), actor="person:test")

    assert refused.value.problem.rule.action is Action.HOLD


async def test_an_account_that_is_ended_is_followed_by_another(replica, issuer, sql):
    one, two = replica(), replica()
    before, _ = await one.ensure(issuer), await two.ensure(issuer)
    await one.deactivate(issuer, actor="person:test")
    async with one.client(issuer, before) as client:
        with pytest.raises(Refused):
            await client.new_order(["www.example.test"])
    after = [await accounts.ensure(issuer) for accounts in (one, two)]
    await order(two, issuer)

    assert {before.url}.isdisjoint({account.url for account in after})
    assert 1 == len({account.url for account in after})


async def test_a_ca_that_forgot_the_account_makes_it_anew_for_the_same_key(replica, issuer, pebble):
    one = replica()
    before = await one.ensure(issuer)
    await order(one, issuer)
    await pebble.restart()
    with pytest.raises(Refused) as refused:
        await order(one, issuer)
    await one.forget(issuer, before)
    after = await one.ensure(issuer)
    await order(one, issuer)

    assert refused.value.problem.rule.action is Action.REREGISTER
    assert (before.key_id, True) == (after.key_id, before.url != after.url)


async def test_a_new_account_beyond_what_the_ca_takes_is_not_asked_for(issuer, front, database, tmp_path):
    """Of a server's own Accounts: each new one counts, also one that follows another which was ended."""
    sealer, told = (await Issuances.open(database, tmp_path)).sealer, Metrics(version="1")
    accounts, _ = build_accounts(
        database, sealer, SystemClock(), "replica:test", issuers=[issuer.name], to=told
    )
    few = replace(
        issuer,
        directory_url=front.directory_url,
        ca_file=front.ca_file,
        limits=Preset({Counted.ACCOUNTS: Limit(1, timedelta(hours=3))}),
    )
    await accounts.ensure(few)
    await accounts.deactivate(few, actor="person:test")
    with pytest.raises(OrderedTooOften, match="1 new accounts in 3 h"):
        await accounts.ensure(few)

    assert 1 == [visit.path for visit in front.visits].count("/sign-me-up")


async def test_a_ca_is_asked_no_faster_than_it_takes_by_all_its_issuers_together(issuer, front, replica):
    """CAs count requests by address. One after the other: a slow machine only makes it longer."""
    limits = Preset(requests_per_s=PER_SECOND)
    one = replace(issuer, directory_url=front.directory_url, ca_file=front.ca_file, limits=limits)
    two, accounts = replace(one, name="other"), replica()
    began = time.monotonic()
    for _ in range(4):
        await order(accounts, one)
        await order(accounts, two)

    assert len(front.visits) > 8
    assert front.visits[-1].at - began >= (len(front.visits) - 1) / PER_SECOND
