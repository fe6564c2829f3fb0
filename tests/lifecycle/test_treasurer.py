"""The treasurer: nothing is ordered that a CA's limits do not allow, by any replica; and all else goes on."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from acme_engine.errors import Problem, Refused
from sds_server.errors import OrderedTooOften
from sds_server.inventory import budgets, declarations, orders, progress, rotations
from sds_server.inventory.database import Transaction
from sds_server.inventory.orders import OrderState
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.treasurer import CROWDED, Treasurer
from sds_server.limits import Counted, Exempt, Limit, Preset
from sds_server.model import KeyId, Reason, SealedKey
from tests.support.databases import turn_clock
from tests.support.issuances import LEASE, secret

HOURS = timedelta(hours=1)
ISSUER = Issuer(
    name="internal",
    directory_url="https://ca.example.test/dir",
    ca_file=None,
    roots=(),
    contact=(),
    terms_agreed=True,
    eab=None,
    limits=Preset(
        {
            Counted.ORDERS: Limit(20, HOURS, Exempt.REPLACING, "too many new orders"),
            Counted.DOMAIN: Limit(5, 10 * HOURS, Exempt.REPLACING, 'already issued for "'),
        }
    ),
)


@pytest.fixture
def treasurer(database):
    return Treasurer(database=database)


@pytest.fixture
def planned(database):
    """Declare a Secret, claim its Rotation and plan its order; returns what `admit` is told."""

    async def planned(name, domain="example.com"):
        declared = secret(name, [f"{name}.{domain}"])
        await declarations.put(database, declared, actor="person:test")
        opened = await progress.latest(database, name)
        claim = await rotations.claim_this(database, name, opened.id, replica="a", lease_for=LEASE)
        assert claim is not None
        key = SealedKey.external(KeyId(uuid4()), "leaf", bytes(32))
        order = await orders.plan(database, claim.lease, declared, csr=b"csr", key=key, actor="replica:test")
        return claim.lease, order, declared

    return planned


async def admit(treasurer, planned, *, issuer=ISSUER, replacing=False, by_hand=False):
    lease, order, declared = planned
    await treasurer.admit(lease, order.id, declared, issuer, replacing=replacing, by_hand=by_hand)


async def let_go(database, planned):
    """The order is stored or given up for now: it is not in flight any more."""
    lease, _, _ = planned
    await rotations.fail(
        database, lease, error={"what": "later"}, pause=timedelta(days=9), actor="replica:test"
    )


async def finalized(database, planned):
    lease, order, _ = planned
    await orders.step(database, lease, order, OrderState.FINALIZING, actor="replica:test")


async def test_what_would_exceed_a_limit_is_not_let_go_and_says_when(treasurer, planned, database):
    for number in range(4):
        one = await planned(f"www{number}")
        await admit(treasurer, one)
        await let_go(database, one)
    with pytest.raises(OrderedTooOften) as refused:
        await admit(treasurer, fifth := await planned("www5"))

    assert timedelta(minutes=119) < refused.value.wait <= 2 * HOURS
    assert "internal: the CA's limit of 5 certificates of example.com in 10 h" in refused.value.message
    assert "`certvoy rotate www5` does not wait" in refused.value.next_step
    await admit(treasurer, await planned("other", domain="example.org"))
    await admit(treasurer, fifth, replacing=True)
    await admit(treasurer, fifth, by_hand=True)


async def test_a_refused_order_takes_of_no_limit(treasurer, planned, database):
    for number in range(4):
        one = await planned(f"www{number}")
        await admit(treasurer, one)
        await let_go(database, one)
    _, before = await budgets.left(database, ISSUER.directory_url)
    with pytest.raises(OrderedTooOften):
        await admit(treasurer, await planned("www5"))

    assert before == (await budgets.left(database, ISSUER.directory_url))[1]


async def test_an_order_that_is_sent_again_takes_a_certificate_once_and_an_order_each_time(
    treasurer, planned, database
):
    one = await planned("www")
    await admit(treasurer, one)
    await admit(treasurer, one)
    now, left = await budgets.left(database, ISSUER.directory_url)
    taken = {account.counted: (bucket.full_at - now) / HOURS for account, bucket in left.items()}

    assert {Counted.ORDERS: 0.1, Counted.DOMAIN: 2.0} == {
        counted: round(hours, 2) for counted, hours in taken.items()
    }


@pytest.mark.parametrize("is_finalized", [False, True])
async def test_an_abandoned_order_gives_back_what_the_ca_has_not_counted(
    treasurer, planned, database, is_finalized
):
    one = await planned("www")
    await admit(treasurer, one)
    if is_finalized:
        await finalized(database, one)
    await orders.abandon(database, one[0], actor="replica:test")
    _, left = await budgets.left(database, ISSUER.directory_url)
    counted = {account.counted for account in left}

    assert ({Counted.ORDERS, Counted.DOMAIN} if is_finalized else {Counted.ORDERS}) == counted


async def test_what_is_spent_is_there_again_in_time(treasurer, planned, database, sql):
    for number in range(4):
        one = await planned(f"www{number}")
        await admit(treasurer, one)
        await let_go(database, one)
    with pytest.raises(OrderedTooOften) as refused:
        await admit(treasurer, await planned("early"))
    await turn_clock(sql, refused.value.wait)
    await admit(treasurer, await planned("late"))


async def test_two_replicas_do_not_take_the_last_one_both(treasurer, planned, database):
    for number in range(3):
        one = await planned(f"www{number}")
        await admit(treasurer, one)
        await let_go(database, one)
    both = [await planned("a"), await planned("b")]
    ends = await asyncio.gather(*(admit(treasurer, one) for one in both), return_exceptions=True)

    assert [None] == [end for end in ends if not isinstance(end, OrderedTooOften)]


async def test_orders_in_flight_for_one_domain_are_bounded(treasurer, planned, database):
    """Whether or not the CA counts: one web server, or one zone, answers for all of them."""
    unlimited = replace(ISSUER, limits=Preset())
    flying = [await planned(f"www{number}") for number in range(budgets.PER_DOMAIN)]
    for one in flying:
        await admit(treasurer, one, issuer=unlimited)
    another = await planned("another")
    with pytest.raises(OrderedTooOften) as refused:
        await admit(treasurer, another, issuer=unlimited)
    await let_go(database, flying[0])
    await admit(treasurer, another, issuer=unlimited)

    assert CROWDED == refused.value.wait
    assert "4 orders for names of example.com are in flight at internal" in refused.value.message


def limited(detail, retry_after=timedelta(hours=26)):
    document = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": detail}
    return Refused("newOrder", Problem.of(document, status=429, retry_after=retry_after))


async def test_a_429_closes_its_scope_until_the_ca_says_and_no_other(treasurer, planned, database, sql):
    one, closed = await planned("www"), []
    treasurer.on_limited = lambda *said: closed.append(said)
    told = limited('too many certificates (50) already issued for "example.com" in the last 168h')
    lasts = await treasurer.believe(ISSUER, one[2], told)
    with pytest.raises(OrderedTooOften) as refused:
        await admit(treasurer, one, by_hand=True)
    await admit(treasurer, await planned("www2", domain="example.org"))

    assert [(ISSUER.name, "domain")] == closed
    assert timedelta(hours=26) == lasts
    assert timedelta(hours=25, minutes=59) < refused.value.wait <= lasts
    assert "as it says itself" in refused.value.message
    await turn_clock(sql, lasts)
    await admit(treasurer, await planned("www3"))


async def test_a_429_in_other_words_is_of_no_limit_that_is_known(treasurer, planned, database):
    one, closed = await planned("www"), []
    treasurer.on_limited = lambda *said: closed.append(said)

    assert await treasurer.believe(ISSUER, one[2], limited("come back later")) is None
    assert [(ISSUER.name, None)] == closed
    assert ({}) == (await budgets.left(database, ISSUER.directory_url))[1]


async def test_accounts_are_counted_too(treasurer):
    issuer = replace(ISSUER, limits=Preset({Counted.ACCOUNTS: Limit(1, 3 * HOURS)}))
    await treasurer.admit_account(issuer)
    with pytest.raises(OrderedTooOften) as refused:
        await treasurer.admit_account(issuer)

    assert "1 new accounts in 3 h" in refused.value.message


async def test_a_name_that_fails_too_often_is_not_ordered(treasurer, planned, database):
    issuer = replace(ISSUER, limits=Preset({Counted.FAILURES: Limit(5, HOURS)}))
    one = await planned("www")
    for _ in range(4):
        await treasurer.failed(issuer, {"www.example.com"})
    with pytest.raises(OrderedTooOften) as refused:
        await admit(treasurer, one, issuer=issuer)
    await admit(treasurer, await planned("shop"), issuer=issuer)

    assert "5 failed validations of www.example.com in 1 h" in refused.value.message


async def test_workers_that_come_together_take_one_new_account(treasurer, database, issuances, monkeypatch):
    class Registering:
        asked = 0

        async def register(self, **_terms):
            Registering.asked += 1
            await asyncio.sleep(0)  # the others are let on
            return SimpleNamespace(url="https://ca.example.test/acct/1")

    accounts = Accounts(
        database=database,
        sealer=issuances.sealer,
        actor="replica:test",
        admit=treasurer.admit_account,
    )
    monkeypatch.setattr(accounts, "_open", lambda *_about: nullcontext(Registering()))
    limits = Preset({Counted.ACCOUNTS: Limit(10, 3 * HOURS, said="too many new registrations")})
    issuer = replace(ISSUER, limits=limits)
    registered = await asyncio.gather(*(accounts.ensure(issuer) for _ in range(12)))

    assert {"https://ca.example.test/acct/1"} == {account.url for account in registered}
    assert 1 == Registering.asked


async def test_full_buckets_are_forgotten(treasurer, planned, database, sql):
    await admit(treasurer, await planned("www"))
    await turn_clock(sql, timedelta(hours=11))
    await budgets.sweep(database, limit=10)

    assert 0 == await sql.fetchval("SELECT count(*) FROM rate_bucket")


async def test_so_many_are_worked_on_at_once_as_an_issuer_may_have(database):
    for number in range(4):
        declared = secret(f"www{number}", [f"www{number}.example.com"])
        await declarations.put(database, declared, actor="person:test")

    async def claim():
        return await rotations.claim(
            database, replica="a", lease_for=LEASE, in_flight={"internal": 2, "other": 9}
        )

    claims = await asyncio.gather(*(claim() for _ in range(4)))
    held = [one for one in claims if one is not None]
    await rotations.fail(
        database, held[0].lease, error={"what": "no"}, pause=timedelta(days=1), actor="replica:a"
    )

    assert 2 == len(held)
    assert await claim() is not None
    assert await claim() is None


async def test_who_finds_an_issuer_full_holds_its_turn_no_more(database, monkeypatch):
    """Else two who do, and go on to the other's issuer, wait for each other."""
    rows, value, turns = Transaction.rows, Transaction.value, []

    async def taken(tx, statement, *arguments):
        turns.extend([tx] if statement == "lock_claims" else [])
        return await rows(tx, statement, *arguments)

    async def full(tx, statement, *arguments):
        return 1 if statement == "claimed_of" else await value(tx, statement, *arguments)

    await declarations.put(database, secret("www", ["www.example.com"]), actor="person:test")
    monkeypatch.setattr(Transaction, "rows", taken)
    monkeypatch.setattr(Transaction, "value", full)
    claimed = await rotations.claim(database, replica="a", lease_for=LEASE, in_flight={"internal": 1})

    assert claimed is None
    assert rotations.TRIES == len({id(tx) for tx in turns})


async def test_who_hastens_a_rotation_by_hand_has_what_is_kept(database, issuances):
    await issuances.declare()
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")

    assert (await issuances.claim()).by_hand
