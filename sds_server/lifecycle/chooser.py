"""The chooser: which of a Secret's issuers an attempt asks, from how they stand now."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.errors import OrderedTooOften
from sds_server.inventory import certificates, orders, troubles
from sds_server.inventory.database import Database
from sds_server.inventory.rotations import Claim
from sds_server.lifecycle import fallback
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.fallback import Choice
from sds_server.lifecycle.treasurer import Treasurer
from sds_server.log import get
from sds_server.model import Secret

LOOK_AGAIN: Final = timedelta(seconds=3)
"""Between two looks whether one may be asked."""

_log = get("chooser")


class Chooser:
    """Reads how issuers stand; `fallback.choose` decides."""

    def __init__(
        self,
        *,
        database: Database,
        issuers: Mapping[str, Issuer],
        treasurer: Treasurer,
        clock: Clock,
        actor: str,
    ) -> None:
        self._database = database
        self._issuers = issuers
        self._treasurer = treasurer
        self._clock = clock
        self._actor = actor

    async def choose(self, claim: Claim, secret: Secret) -> Claim:
        """Return the claim with the issuer that is asked; where it is not the first, the audit says why.

        Raises:
            OrderedTooOften: none may be asked now.
        """
        if not secret.fallback:
            return replace(claim, issuer=secret.issuer)
        under_way = await orders.under_way(self._database, claim.lease)
        where = None if under_way is None else under_way.issuer
        choice = await self._choice(claim, secret, under_way=where)
        if choice is None:
            raise OrderedTooOften(
                secret.name,
                f"none of its issuers may be asked now: {', '.join([secret.issuer, *secret.fallback])}",
                wait=LOOK_AGAIN,
                rule="issuers",
                hint="nothing: it goes on when one of them answers; `certvoy issuers ls` says how they are",
            )
        if choice.why is not None and choice.issuer != where:
            await troubles.fell_back(self._database, claim.lease, choice, actor=self._actor)
            _log.warning("rotation.fell_back", secret=secret.name, issuer=choice.issuer, why=choice.why)
        return replace(claim, issuer=choice.issuer)

    async def another(self, claim: Claim, secret: Secret) -> bool:
        """Whether the attempt failed because of its issuer, and another one would be asked now."""
        if not secret.fallback:
            return False
        choice = await self._choice(claim, secret, under_way=None, urgent=False)
        return choice is not None and choice.issuer != claim.issuer

    async def _choice(
        self, claim: Claim, secret: Secret, *, under_way: str | None, urgent: bool | None = None
    ) -> Choice | None:
        names = [name for name in (secret.issuer, *secret.fallback) if name in self._issuers]
        if not names:
            return Choice(secret.issuer)
        previous = None
        if claim.replaces is not None:
            found = await certificates.pairs(self._database, [claim.replaces])
            previous = found[0].certificate if found else None
        standings = dict(await troubles.standings(self._database, names))
        for name in names:
            standings[name] = replace(
                standings[name],
                spent_for=await self._treasurer.spent_for(
                    secret,
                    self._issuers[name],
                    replacing=previous is not None and previous.issuer == name,
                    by_hand=claim.by_hand,
                ),
            )
        if urgent is None:
            urgent = previous is not None and fallback.is_urgent(
                previous.not_before, previous.not_after, now=self._clock.now()
            )
        return fallback.choose(names, standings, urgent=urgent, attempts=claim.attempts, under_way=under_way)
