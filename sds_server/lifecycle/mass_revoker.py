"""Replaces all that a CA has issued, in batches, under its limits; says when that will be done."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from acme_engine.registered import registered_domains
from sds_server.errors import NotFound
from sds_server.inventory import budgets, mass_revocations
from sds_server.inventory.database import Database
from sds_server.inventory.mass_revocations import Begun, Outlook
from sds_server.lifecycle import budget
from sds_server.lifecycle.accounts import Issuer
from sds_server.model import RevocationReason

BATCH: Final = 200
"""Secrets in one call: each is a transaction of its own, and a call answers within seconds."""

FORECAST_MAX: Final = 5_000
"""So many orders are forecast; with more of them the answer is a lower bound."""

ORDER_TAKES: Final = timedelta(seconds=3)
"""What an order takes at a public CA, with nothing in its way: so many at once as are let go."""


class MassRevoker:
    """The `MassRevocations` of the admin API."""

    def __init__(self, *, database: Database, issuers: Mapping[str, Issuer]) -> None:
        self._database = database
        self._issuers = issuers

    async def begin(
        self,
        issuer: str,
        *,
        reason: RevocationReason,
        at_once: bool,
        drill: bool,
        after: str,
        actor: str,
    ) -> Begun:
        """Open Rotations for the next batch of what is served of the issuer.

        ``drill``: nothing is revoked. Asked again after a lost answer it passes over what is under way.

        Raises:
            NotFound: there is no such issuer.
        """
        self._issuer(issuer)
        since = await mass_revocations.now(self._database)
        if not after:
            await mass_revocations.begun(
                self._database, issuer, reason=reason, at_once=at_once, drill=drill, actor=actor
            )
        found = await mass_revocations.batch(self._database, issuer, after=after, limit=BATCH)
        opened = 0
        for secret, generation in found:
            if drill:
                opened += await mass_revocations.drill(self._database, secret, actor=actor)
            else:
                opened += await mass_revocations.revoke(
                    self._database, secret, generation, reason=reason, at_once=at_once, actor=actor
                )
        last = found[-1][0] if len(found) == BATCH else None
        return Begun(since=since, opened=opened, passed_over=len(found) - opened, after=last)

    async def outlook(self, issuer: str, *, since: datetime) -> Outlook:
        """Say how far what began at ``since`` is, and when the last of it will be issued.

        Raises:
            NotFound: there is no such issuer.
        """
        ca = self._issuer(issuer)
        progress, waiting = await mass_revocations.progress(
            self._database, issuer, since=since, limit=FORECAST_MAX
        )
        if not waiting:
            return Outlook(progress, None)
        now, left = await budgets.left(self._database, ca.directory_url)
        orders = [
            budget.Order(names=names, domains=registered_domains(names), renewing=True) for names in waiting
        ]
        allowed = budget.forecast(orders, left, ca.limits.limits, now=now)
        return Outlook(progress, max(allowed, now + ORDER_TAKES * progress.waiting / ca.in_flight))

    def _issuer(self, name: str) -> Issuer:
        issuer = self._issuers.get(name)
        if issuer is None:
            declared = ", ".join(sorted(self._issuers))
            raise NotFound(
                f"issuer {name}: there is none of that name", hint=f"the configuration declares: {declared}"
            )
        return issuer
