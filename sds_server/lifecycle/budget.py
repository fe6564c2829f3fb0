"""May this be ordered now, by the CA's limits, and if not, when. Pure.

A limit is a bucket with one number: when it is full again (a generic cell rate algorithm). Taking one moves
that moment by the time that one takes to come back; so nothing has to be counted, and a limit that is changed
in the configuration holds for what was taken before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from sds_server.limits import Counted, Exempt, Limit, Limits

KEPT: Final = Fraction(1, 5)
"""The share of each limit that is kept for what a person asks for."""


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """What is limited at a CA: what is counted, and of whom; `of` is a domain, names, or nothing."""

    counted: Counted
    of: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """How much of a limit is left: all of it at ``full_at``, nothing before ``closed_until``."""

    full_at: datetime | None = None
    closed_until: datetime | None = None


FULL: Final = Bucket()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be ordered. ``replacing``: it names its predecessor (RFC 9773 section 5).

    ``renewing``: the same names were certified by this CA before. ``by_hand``: a person asks for it.
    """

    names: tuple[str, ...]
    domains: tuple[str, ...]
    replacing: bool = False
    renewing: bool = False
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not before ``until``: this limit is spent, or the CA said so."""

    account: Account
    limit: Limit
    until: datetime
    by_ca: bool
    by_hand: bool

    @property
    def said(self) -> str:
        """The reason in words."""
        hours = round(self.limit.period.total_seconds() / 3600, 2)
        what = _WORDS[self.account.counted].format(of=self.account.of)
        limit = f"{self.limit.count} {what} in {hours:g} h"
        if self.by_ca:
            return f"the CA's limit of {limit} is spent, as it says itself"
        if self.by_hand:
            return f"the CA's limit of {limit} would be exceeded"
        share = f"{float(KEPT):.0%} of it is kept for `certvoy rotate`"
        return f"the CA's limit of {limit} would be exceeded; {share}"


_WORDS: Final = {
    Counted.ORDERS: "orders of this account",
    Counted.DOMAIN: "certificates of {of}",
    Counted.NAMES: "certificates of exactly these names",
    Counted.FAILURES: "failed validations of {of}",
    Counted.ACCOUNTS: "new accounts",
}


def names_key(names: Iterable[str]) -> str:
    """Return what exactly these names are counted under."""
    return ",".join(sorted(names))


def taken(order: Order, limits: Limits) -> Sequence[Account]:
    """Return what an order takes one of, in a fixed order."""
    of = {Counted.ORDERS: ("",), Counted.DOMAIN: order.domains, Counted.NAMES: (names_key(order.names),)}
    return [
        Account(counted, key)
        for counted, keys in of.items()
        if counted in limits and not _exempt(limits[counted], order)
        for key in sorted(keys)
    ]


def looked_at(order: Order, limits: Limits) -> Sequence[Account]:
    """Return what must have one left for an order to begin, though it takes none: it may fail."""
    if Counted.FAILURES not in limits:
        return []
    return [Account(Counted.FAILURES, name) for name in sorted({n.removeprefix("*.") for n in order.names})]


def decide(
    wanted: Iterable[Account],
    buckets: Mapping[Account, Bucket],
    limits: Limits,
    *,
    now: datetime,
    by_hand: bool = False,
) -> Refusal | None:
    """Return why one of each of these cannot be taken now, and when: the longest wait; None: it can."""
    refusals = []
    for account in wanted:
        limit, bucket = limits[account.counted], buckets.get(account, FULL)
        share = limit.period if by_hand else limit.period * float(1 - KEPT)
        # A limit of one has nothing to keep a share of.
        free = after_one(bucket, limit, now=now) - max(share, limit.cost)
        if bucket.closed_until is not None and bucket.closed_until > now:
            until = max(free, bucket.closed_until)
            refusals.append(Refusal(account, limit, until, by_ca=True, by_hand=by_hand))
        elif free > now:
            refusals.append(Refusal(account, limit, free, by_ca=False, by_hand=by_hand))
    return max(refusals, key=lambda refusal: refusal.until, default=None)


def after_one(bucket: Bucket, limit: Limit, *, now: datetime) -> datetime:
    """Return when the bucket is full again, once one is taken of it."""
    return (now if bucket.full_at is None else max(bucket.full_at, now)) + limit.cost


def share_left(bucket: Bucket, limit: Limit, *, now: datetime) -> float:
    """Return which share of a limit is left, 0 to 1; none while the CA says so."""
    if bucket.closed_until is not None and bucket.closed_until > now:
        return 0.0
    taken = timedelta(0) if bucket.full_at is None else bucket.full_at - now
    return min(1.0, max(0.0, 1 - taken / limit.period))


def forecast(
    orders: Iterable[Order], buckets: Mapping[Account, Bucket], limits: Limits, *, now: datetime
) -> datetime:
    """Return when the last of these orders can be let go, if each goes as soon as the limits allow."""
    left, last = dict(buckets), now
    for order in orders:
        wanted = taken(order, limits)
        refusal = decide(wanted, left, limits, now=now, by_hand=order.by_hand)
        at = now if refusal is None else refusal.until
        for account in wanted:
            before = left.get(account, FULL)
            left[account] = Bucket(after_one(before, limits[account.counted], now=at), before.closed_until)
        last = max(last, at)
    return last


def empty_until(limit: Limit, *, now: datetime, lasts: timedelta) -> Bucket:
    """Return the bucket that the CA calls empty: the next one is there when it says."""
    # What is not a person's finds one then: a bucket corrected to nothing would keep it for longer.
    full_at = now + lasts + max(limit.period * float(1 - KEPT), limit.cost) - limit.cost
    return Bucket(full_at=full_at, closed_until=now + lasts)


def reached(said: str, limits: Limits, order: Order) -> Sequence[Account]:
    """Return what a CA's words are about; nothing: all of it, as far as anybody can tell."""
    told = said.lower()
    what = next((what for what, limit in limits.items() if limit.said and limit.said in told), None)
    match what:
        case None:
            return []
        case Counted.DOMAIN:
            return [Account(what, of) for of in _named(order.domains, told)]
        case Counted.FAILURES:
            names = tuple(sorted({name.removeprefix("*.") for name in order.names}))
            return [Account(what, of) for of in _named(names, told)]
        case Counted.NAMES:
            return [Account(what, names_key(order.names))]
        case _:
            return [Account(what, "")]


def _named(candidates: Sequence[str], told: str) -> Sequence[str]:
    """Return those that the CA names in quotes; all of them where it names none."""
    return [of for of in candidates if f'"{of}"' in told] or candidates


def _exempt(limit: Limit, order: Order) -> bool:
    match limit.exempt:
        case Exempt.NONE:
            return False
        case Exempt.REPLACING:
            return order.replacing
        case Exempt.RENEWING:
            return order.replacing or order.renewing
