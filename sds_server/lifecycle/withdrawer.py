"""The withdrawer: takes out of DNS what attempts left there that were killed, or could not clean up."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from acme_engine.dns.provider import CALL_TIMEOUT_S, DnsProvider
from acme_engine.errors import AcmeError
from sds_server.crashpoint import crashpoint
from sds_server.inventory import challenge_values
from sds_server.inventory.challenge_values import DueValue
from sds_server.inventory.database import Database
from sds_server.log import get

BATCH: Final = 8

HOLD_FOR: Final = timedelta(seconds=CALL_TIMEOUT_S + 30)
"""Longer than a provider's answer is waited for: nobody publishes the same value meanwhile."""

PAUSE: Final = timedelta(minutes=10)
"""Before a value is tried again that could not be removed."""

GIVE_UP_AFTER: Final = timedelta(days=7)
"""A value proves nothing once its order is over, and many of them hinder: somebody should look."""

_log = get("dns")


class Withdrawer:
    """Any number of replicas may run one: what another holds is passed over."""

    def __init__(self, *, database: Database, providers: Mapping[str, DnsProvider]) -> None:
        """``providers``: of each issuer that has one."""
        self._database = database
        self._providers = providers

    async def step(self) -> None:
        """Remove all that is due now.

        Raises:
            Unavailable: the database does not answer.
        """
        while due := await challenge_values.take_due(
            self._database, [*self._providers], hold_for=HOLD_FOR, limit=BATCH
        ):
            await asyncio.gather(*map(self._withdraw, due))
        for name, issuer in await challenge_values.give_up(self._database, older_than=GIVE_UP_AFTER):
            _log.error("value.abandoned", name=name, issuer=issuer)

    async def close(self) -> None:
        """Give the providers' connections back."""
        for provider in self._providers.values():
            await provider.close()

    async def _withdraw(self, due: DueValue) -> None:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._providers[due.issuer].remove(due.name, due.value)
        except (AcmeError, TimeoutError) as e:
            await challenge_values.kept(self._database, due, pause=PAUSE)
            _log.warning("value.kept", name=due.name, issuer=due.issuer, error=str(e) or "no answer in time")
            return
        crashpoint("value.withdrawn")
        await challenge_values.removed(self._database, due)
        _log.info("value.withdrawn", name=due.name, issuer=due.issuer)
