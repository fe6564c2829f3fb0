"""Fallback looks: may the CAs issue that Secrets fall back on, by CAA? Told before they are needed.

The first CA says by itself what it may not; one that is asked only when the first is away says it in the
worst moment. Nothing waits for a look, and nothing is refused by one: DNS may be mended meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Final

from acme_engine.errors import AcmeError
from acme_engine.preflight import Finding, Verdict
from sds_server.errors import NotFound
from sds_server.inventory import fallback_looks, secrets
from sds_server.inventory.database import Database
from sds_server.inventory.fallback_looks import Forbidden
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.preflights import behind_first
from sds_server.log import get

DAILY: Final = timedelta(hours=24)
SPREAD: Final = (0.9, 1.1)
SOON: Final = timedelta(hours=1)
"""Where something is wrong: it may be mended, or it was DNS alone that did not answer."""

BATCH: Final = 8
PARALLEL: Final = 8
WITHIN_S: Final = 60.0
"""For all names and CAs of one Secret; then it is looked at again later."""

_log = get("fallback")


class FallbackLooks:
    """Any number of replicas may run one: each Secret is looked at by one of them."""

    def __init__(self, *, database: Database, issuers: Mapping[str, Issuer], rng: Random) -> None:
        self._database = database
        self._issuers = issuers
        self._rng = rng

    async def step(self) -> None:
        """Look at all that is due.

        Raises:
            Unavailable: the database does not answer.
        """
        while due := await fallback_looks.claim(self._database, limit=BATCH):
            for name, before in due:
                await self._look(name, before)
            if len(due) < BATCH:
                break

    async def _look(self, name: str, before: Sequence[Forbidden]) -> None:
        try:
            secret = await secrets.get(self._database, name)
        except NotFound:
            return  # it goes, and takes its looks along
        pairs = [
            (self._issuers[issuer], domain)
            for issuer in secret.fallback
            if issuer in self._issuers
            for domain in secret.domains
        ]
        limit = asyncio.Semaphore(PARALLEL)
        try:
            async with asyncio.timeout(WITHIN_S):
                found = await asyncio.gather(*(_forbidden(ca, domain, limit) for ca, domain in pairs))
        except (AcmeError, TimeoutError):
            # Nobody knows: what was found before stays.
            await fallback_looks.looked(self._database, name, before, again_in=SOON)
            return
        forbidden = [one for one in found if one is not None]
        again_in = SOON if forbidden else DAILY
        await fallback_looks.looked(
            self._database, name, forbidden, again_in=again_in * self._rng.uniform(*SPREAD)
        )
        for one in forbidden:
            if one not in before:
                _log.warning(
                    "fallback.forbidden", secret=name, issuer=one.issuer, error=one.seen, hint=one.fix
                )


async def _forbidden(ca: Issuer, domain: str, limit: asyncio.Semaphore) -> Forbidden | None:
    async with limit:
        found: Finding = await behind_first(domain, ca)
    # A CA that does not answer says nothing of CAA, and one of one's own may ignore it: those are warnings.
    if found.verdict is not Verdict.FAILED:
        return None
    return Forbidden(ca.name, domain, found.seen, found.fix)
