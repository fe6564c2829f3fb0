"""The treasurer: lets an order go if the CA's limits allow one more, and believes a CA that says no.

Asked before each newOrder, by the engine itself, when it is known whether the order names a predecessor: so
nothing is ordered that would exceed a limit, by any replica.
"""

from collections.abc import Callable, Collection
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from acme_engine.errors import AcmeError, Refused
from acme_engine.registered import registered_domains
from sds_server.crashpoint import crashpoint
from sds_server.errors import OrderedTooOften
from sds_server.inventory import budgets, guilty
from sds_server.inventory.budgets import Crowd
from sds_server.inventory.database import Database
from sds_server.lifecycle import budget
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.budget import Account, Refusal
from sds_server.limits import Counted
from sds_server.log import get
from sds_server.model import Lease, Secret

CROWDED: Final = timedelta(seconds=2)
"""How long an order waits for others of its registered domain: about as long as one of them takes."""

RULE: Final = "budget"
"""And behind a dot the limit that is spent, or ``in_flight``: metrics count what waits by that."""

ANCIENT: Final = timedelta(days=400)
"""A certificate older than that is nobody's predecessor: none lives as long."""

_log = get("treasurer")


class Treasurer:
    """Keeps to the limits of CAs; what is taken is in the database, for all replicas."""

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self.on_limited: Callable[[str, str | None], None] = lambda _issuer, _limit: None
        """Told of each 429, by the limit that it names; None: none that is known."""

    async def admit(
        self, lease: Lease, order_id: int, secret: Secret, issuer: Issuer, *, replacing: bool, by_hand: bool
    ) -> None:
        """Take what the order takes of its CA's limits.

        Raises:
            OrderedTooOften: nothing was taken; with the reason, and how long it is to wait.
            StaleLease: another worker has the Rotation.
        """
        order = await self._order(secret, issuer, replacing=replacing, by_hand=by_hand)
        refusal, wait = await budgets.reserve(
            self._database,
            lease,
            order_id,
            order,
            directory_url=issuer.directory_url,
            limits=issuer.limits.limits,
        )
        match refusal:
            case None:
                crashpoint("budget.reserved")
            case Crowd():
                raise OrderedTooOften(
                    secret.name,
                    f"{refusal.orders} orders for names of {refusal.domain} are in flight at {issuer.name}",
                    wait=CROWDED,
                    rule=f"{RULE}.in_flight",
                    hint="nothing: it goes on when they are done",
                )
            case Refusal():
                raise _too_often(secret.name, issuer, refusal, wait)

    async def spent_for(self, secret: Secret, issuer: Issuer, *, replacing: bool, by_hand: bool) -> timedelta:
        """Return for how long the CA's limits keep an order from it; nothing is taken."""
        limits = issuer.limits.limits
        if not limits:
            return timedelta(0)
        order = await self._order(secret, issuer, replacing=replacing, by_hand=by_hand)
        now, left = await budgets.left(self._database, issuer.directory_url)
        wanted = [*budget.taken(order, limits), *budget.looked_at(order, limits)]
        refusal = budget.decide(wanted, left, limits, now=now, by_hand=by_hand)
        return timedelta(0) if refusal is None else refusal.until - now

    async def admit_account(self, issuer: Issuer) -> None:
        """Take a new account of the CA's limit of those.

        Raises:
            OrderedTooOften: nothing was taken.
        """
        limits = issuer.limits.limits
        if Counted.ACCOUNTS not in limits:
            return
        refusal, wait = await budgets.take(
            self._database,
            [Account(Counted.ACCOUNTS, "")],
            directory_url=issuer.directory_url,
            limits=limits,
        )
        if refusal is not None:
            raise _too_often(f"(account at {issuer.name})", issuer, refusal, wait)

    async def believe(self, issuer: Issuer, secret: Secret, error: Exception) -> timedelta | None:
        """Close what the CA says is spent, until it says; None: it says nothing of one limit alone.

        Only that waits, and the time for which it does is returned; all others go on.
        """
        limits = issuer.limits.limits
        if not isinstance(error, Refused) or error.problem.status != HTTPStatus.TOO_MANY_REQUESTS:
            return None
        order = await self._order(secret, issuer, replacing=False, by_hand=False)
        accounts = budget.reached(_words(error), limits, order)
        named = {str(account.counted) for account in accounts}
        for limit in named or (None,):
            self.on_limited(issuer.name, limit)
        if not accounts:
            return None
        lasts = error.retry_after or max(limits[account.counted].cost for account in accounts)
        await budgets.close(
            self._database, accounts, directory_url=issuer.directory_url, limits=limits, lasts=lasts
        )
        for account in accounts:
            _log.warning(
                "budget.closed",
                issuer=issuer.name,
                limit=account.counted,
                of=account.of,
                seconds=lasts.total_seconds(),
            )
        return lasts

    async def failed(self, issuer: Issuer, names: Collection[str]) -> None:
        """Count validations that failed, by name."""
        limits = issuer.limits.limits
        accounts = [Account(Counted.FAILURES, name.removeprefix("*.")) for name in sorted(names)]
        if Counted.FAILURES in limits and accounts:
            await budgets.happened(
                self._database, accounts, directory_url=issuer.directory_url, limits=limits
            )

    async def _order(self, secret: Secret, issuer: Issuer, *, replacing: bool, by_hand: bool) -> budget.Order:
        renewing = False
        if issuer.limits.limits:
            issued = await guilty.issued(self._database, [issuer.name], secret.domains, within=ANCIENT)
            renewing = bool(issued)
        return budget.Order(
            names=secret.domains,
            domains=registered_domains(secret.domains),
            replacing=replacing,
            renewing=renewing,
            by_hand=by_hand,
        )


def _words(error: AcmeError) -> str:
    problem = error.problem
    return str(error if problem is None else problem).lower()


def _too_often(secret: str, issuer: Issuer, refusal: Refusal, wait: timedelta) -> OrderedTooOften:
    return OrderedTooOften(
        secret,
        f"{issuer.name}: {refusal.said}",
        wait=wait,
        rule=f"{RULE}.{refusal.account.counted}",
        hint=None
        if not refusal.by_hand and not refusal.by_ca
        else "nothing: it is ordered when the CA allows it",
    )
