"""The census: reads now and then how the inventory stands, so that a scrape finds it in memory.

A scrape asks no database: it cannot wait for one, nor load it, however many Prometheuses there are, and it
works while the database is away. Every replica tells the same, so alerts take `max by (secret)`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sds_server import metrics
from sds_server.clock import Clock
from sds_server.conditions import DeliveryState, RotationState
from sds_server.errors import Unavailable
from sds_server.inventory import facts
from sds_server.inventory.database import Database
from sds_server.inventory.facts import Dates, Facts, StapleDates
from sds_server.lifecycle import budget
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.budget import FULL
from sds_server.metrics import Metrics, Values

EVERY: Final = timedelta(seconds=15)
"""As often as Prometheus asks by habit."""

COUNTS_LAST: Final = timedelta(minutes=5)
"""Then counts are told no more, as nobody knows them; dates stay, as they do not change by themselves."""

NO_ISSUERS: Final[Mapping[str, Issuer]] = {}

OPEN: Final = (RotationState.WAITING, RotationState.HELD, RotationState.ISSUING, RotationState.ROLLING_OUT)


class Census:
    """What was read last, and when."""

    def __init__(
        self, *, database: Database, clock: Clock, issuers: Mapping[str, Issuer] = NO_ISSUERS
    ) -> None:
        self._database = database
        self._issuers = issuers
        self._clock = clock
        self._facts: Facts | None = None
        self._read_at: datetime | None = None
        self._up = False

    async def step(self) -> None:
        """Read.

        Raises:
            Unavailable: the database does not answer; what was read before stays.
        """
        try:
            self._facts = await facts.read(self._database)
        except Unavailable:
            self._up = False
            raise
        self._up = True
        self._read_at = self._clock.now()

    def tell(self, to: Metrics) -> None:
        """Let ``to`` read what was read."""
        to.number(metrics.DATABASE_UP, lambda: self._up)
        to.read(metrics.INVENTORY_READ, lambda: _moment(self._read_at))
        to.read(metrics.NOT_BEFORE, lambda: {(d.secret,): d.not_before.timestamp() for d in self._dates})
        to.read(metrics.NOT_AFTER, lambda: {(d.secret,): d.not_after.timestamp() for d in self._dates})
        to.read(metrics.RENEWAL, lambda: {(d.secret,): d.renew_at.timestamp() for d in self._dates})
        to.read(metrics.STAPLE_BEGAN, lambda: {(d.secret,): d.this_update.timestamp() for d in self._staples})
        to.read(metrics.STAPLE_ENDS, lambda: {(d.secret,): d.next_update.timestamp() for d in self._staples})
        to.read(metrics.SECRETS, lambda: self._counted(lambda now: _keyed(now.secrets)))
        to.read(metrics.UNLISTED, lambda: self._counted(_unlisted))
        to.read(metrics.OVERDUE, lambda: self._counted(lambda now: {(): now.overdue}))
        to.read(metrics.ROTATIONS_OPEN, lambda: self._counted(_open))
        to.read(metrics.ROTATION_OLDEST, lambda: self._counted(_oldest))
        to.read(metrics.ROTATIONS_FAILING, lambda: self._counted(_failing))
        to.read(metrics.DELIVERIES, lambda: self._counted(_deliveries))
        to.read(metrics.FROZEN, lambda: self._counted(_frozen))
        to.read(metrics.IDENTIFIER_FAILURES, lambda: self._counted(lambda now: now.guilty))
        to.read(metrics.LIMIT_LEFT, lambda: self._counted(self._left))
        to.read(metrics.DEFERRED, lambda: self._counted(self._deferred))
        to.read(metrics.REFUSES, lambda: self._counted(lambda now: dict.fromkeys(now.refusers, 1)))
        to.read(metrics.STALE, lambda: self._counted(_stale))
        to.read(metrics.UNPROVED, lambda: self._counted(_unproved))

    @property
    def _dates(self) -> Sequence[Dates]:
        return () if self._facts is None else self._facts.dates

    @property
    def _staples(self) -> Sequence[StapleDates]:
        return () if self._facts is None else self._facts.staples

    def _left(self, now: Facts) -> Values:
        return {
            (name, counted): budget.share_left(
                now.left.buckets.get((issuer.directory_url, counted), FULL), limit, now=now.left.now
            )
            for name, issuer in self._issuers.items()
            for counted, limit in issuer.limits.limits.items()
        }

    def _deferred(self, now: Facts) -> Values:
        """Of issuers that are configured: what stands in the inventory besides would be nobody's label."""
        return {(name, why): orders for (name, why), orders in now.deferred.items() if name in self._issuers}

    def _counted(self, count: Callable[[Facts], Values]) -> Values:
        read_at = self._read_at
        if self._facts is None or read_at is None or self._clock.now() - read_at > COUNTS_LAST:
            return {}
        return count(self._facts)


def _moment(at: datetime | None) -> Values:
    return {} if at is None else {(): at.timestamp()}


def _keyed(counts: Mapping[str, int]) -> Values:
    return {(name,): count for name, count in counts.items()}


def _unlisted(now: Facts) -> Values:
    return {(): now.secrets["valid"] + now.secrets["expired"] - len(now.dates)}


def _open(now: Facts) -> Values:
    return {(state,): now.rotations[state].count if state in now.rotations else 0 for state in OPEN}


def _oldest(now: Facts) -> Values:
    return {(state,): found.oldest.timestamp() for state, found in now.rotations.items()}


def _failing(now: Facts) -> Values:
    return {(): sum(found.failing for found in now.rotations.values())}


def _stale(now: Facts) -> Values:
    return {(secret,): since.timestamp() for secret, since in now.stale.items()}


def _frozen(now: Facts) -> Values:
    return {
        (found.secret, "person" if found.by_person else "certvoy"): found.at.timestamp()
        for found in now.frozen
    }


def _deliveries(now: Facts) -> Values:
    if now.deliveries is None:
        return {}
    return {(state,): now.deliveries.get(state, 0) for state in DeliveryState}


def _unproved(now: Facts) -> Values:
    return {(secret, state): count for (secret, state), count in now.unproved.items()}
