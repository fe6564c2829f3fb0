"""What is left of CAs' rate limits, for all replicas: taken before an order, given back where none came.

A CA counts orders when they are made and certificates when they are issued. So what an order takes of the
second comes back when it is abandoned before it was finalized; and taken twice by one order it counts once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sds_server.crashpoint import crashpoint
from sds_server.inventory import rotations
from sds_server.inventory.database import Database, Transaction
from sds_server.lifecycle import budget
from sds_server.lifecycle.budget import Account, Bucket, Refusal
from sds_server.limits import Counted, Limits
from sds_server.model import Lease

PER_DOMAIN: Final = 4
"""Orders in flight for names of one registered domain: one zone, or one web server, proves them all."""

RETURNED: Final = frozenset({Counted.DOMAIN, Counted.NAMES})
"""What is counted of certificates, and not of orders."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many orders for names of this registered domain are in flight already."""

    domain: str
    orders: int


async def reserve(
    database: Database,
    lease: Lease,
    order_id: int,
    order: budget.Order,
    *,
    directory_url: str,
    limits: Limits,
) -> tuple[Refusal | Crowd | None, timedelta]:
    """Take what the order takes; or nothing, and say why, and for how long it is to wait.

    Raises:
        StaleLease: another worker has the Rotation; nothing was written.
    """
    async with database.transaction() as tx:
        await rotations.hold(tx, lease)
        wanted = budget.taken(order, limits)
        looked_at = budget.looked_at(order, limits)
        places = [Account(Counted.DOMAIN, domain) for domain in order.domains]
        now, buckets = await _lock(tx, directory_url, {*wanted, *looked_at, *places})
        had = {
            Account(Counted(row["counted"]), row["of"])
            for row in await tx.rows("reservations", order_id)
            if row["cost"]
        }
        wanted = [account for account in wanted if account not in had]
        refusal = budget.decide([*wanted, *looked_at], buckets, limits, now=now, by_hand=order.by_hand)
        if refusal is not None:
            return refusal, refusal.until - now
        for row in await tx.rows("orders_in_flight", directory_url, list(order.domains), order_id):
            if row["orders"] >= PER_DOMAIN:
                return Crowd(row["of"], row["orders"]), timedelta(0)
        await _take(tx, directory_url, wanted, buckets, limits, now=now)
        costs = {place: timedelta(0) for place in places} | {
            account: limits[account.counted].cost for account in wanted if account.counted in RETURNED
        }
        for account, cost in costs.items():
            await tx.rows("put_reservation", order_id, directory_url, account.counted, account.of, cost)
        crashpoint("budget.reserving")
    return None, timedelta(0)


async def take(
    database: Database, accounts: Sequence[Account], *, directory_url: str, limits: Limits
) -> tuple[Refusal | None, timedelta]:
    """Take one of each, for what is no order; or nothing, and say why, and for how long to wait."""
    async with database.transaction() as tx:
        now, buckets = await _lock(tx, directory_url, accounts)
        refusal = budget.decide(accounts, buckets, limits, now=now)
        if refusal is not None:
            return refusal, refusal.until - now
        await _take(tx, directory_url, accounts, buckets, limits, now=now)
    return None, timedelta(0)


async def happened(
    database: Database, accounts: Sequence[Account], *, directory_url: str, limits: Limits
) -> None:
    """Count one of each, which nobody could decide about: a validation that failed."""
    async with database.transaction() as tx:
        now, buckets = await _lock(tx, directory_url, accounts)
        await _take(tx, directory_url, accounts, buckets, limits, now=now)


async def close(
    database: Database, accounts: Sequence[Account], *, directory_url: str, limits: Limits, lasts: timedelta
) -> None:
    """Believe the CA that these are spent, for so long; never for a shorter time than was known."""
    async with database.transaction() as tx:
        now, _ = await _lock(tx, directory_url, accounts)
        for account in sorted(accounts):
            empty = budget.empty_until(limits[account.counted], now=now, lasts=lasts)
            await tx.rows(
                "close_bucket", directory_url, account.counted, account.of, empty.full_at, empty.closed_until
            )


async def left(database: Database, directory_url: str) -> tuple[datetime, Mapping[Account, Bucket]]:
    """Return the buckets at a CA of which something is taken, and the time by which that is so."""
    async with database.transaction() as tx:
        rows = await tx.rows("buckets", directory_url)
        now: datetime = await tx.value("now")
    return now, {
        Account(Counted(row["counted"]), row["of"]): Bucket(row["full_at"], row["closed_until"])
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class Emptiest:
    """Of each limit (directory, what is counted) the bucket of which least is left, at ``now``."""

    now: datetime
    buckets: Mapping[tuple[str, Counted], Bucket]


async def emptiest_in(tx: Transaction) -> Emptiest:
    """Return what is left least of, where anything is taken at all."""
    rows = await tx.rows("emptiest_buckets")
    return Emptiest(
        await tx.value("now"),
        {
            (row["directory_url"], Counted(row["counted"])): Bucket(row["full_at"], row["closed_until"])
            for row in rows
        },
    )


async def sweep(database: Database, *, limit: int) -> None:
    """Forget up to so many buckets that are full again."""
    async with database.transaction() as tx:
        await tx.rows("sweep_buckets", limit)


async def _lock(
    tx: Transaction, directory_url: str, accounts: Iterable[Account]
) -> tuple[datetime, Mapping[Account, Bucket]]:
    """Lock these buckets, always in one order, so that two orders never wait for each other."""
    wanted = sorted(accounts)
    counted, of = [account.counted for account in wanted], [account.of for account in wanted]
    await tx.rows("make_buckets", directory_url, counted, of)
    rows = await tx.rows("lock_buckets", directory_url, counted, of)
    buckets = {
        Account(Counted(row["counted"]), row["of"]): Bucket(row["full_at"], row["closed_until"])
        for row in rows
    }
    now: datetime = await tx.value("now")
    return now, buckets


async def _take(
    tx: Transaction,
    directory_url: str,
    accounts: Iterable[Account],
    buckets: Mapping[Account, Bucket],
    limits: Limits,
    *,
    now: datetime,
) -> None:
    for account in accounts:
        full_at = budget.after_one(buckets[account], limits[account.counted], now=now)
        await tx.rows("take_of_bucket", directory_url, account.counted, account.of, full_at)
