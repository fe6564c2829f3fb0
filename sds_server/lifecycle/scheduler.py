"""The scheduler: what time brings. Renewals, Certificates that lapsed, keys kept long enough, old tokens."""

from typing import Final

from sds_server.inventory import audit, budgets, certificates, retirement, rotations, targets
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import Tokens
from sds_server.log import get

BATCH: Final = 100

_log = get("scheduler")


class Scheduler:
    """Any number of replicas may run one: rows that another holds are passed over."""

    def __init__(self, *, database: Database, tokens: Tokens, actor: str) -> None:
        self._database = database
        self._tokens = tokens
        self._actor = actor

    async def step(self) -> None:
        """Do all that is due now, nearest expiry first.

        Raises:
            Unavailable: the database does not answer.
        """
        while opened := await rotations.open_due(self._database, limit=BATCH, actor=self._actor):
            _log.info("renewals.opened", count=opened)
            if opened < BATCH:
                break
        while lapsed := await certificates.lapse(self._database, limit=BATCH, actor=self._actor):
            _log.info("certificates.lapsed", count=lapsed)
            if lapsed < BATCH:
                break
        while True:
            looked_at, destroyed = await retirement.destroy(self._database, limit=BATCH, actor=self._actor)
            if destroyed:
                _log.info("keys.destroyed", count=destroyed)
            if looked_at < BATCH:
                break
        await self._destroy_payloads()
        while forgotten := await targets.sweep(self._database, limit=BATCH, actor=self._actor):
            _log.info("targets.forgotten", count=forgotten)
            if forgotten < BATCH:
                break
        await self._tokens.sweep()
        await budgets.sweep(self._database, limit=BATCH)
        await audit.end_windows(self._database, limit=BATCH, actor=self._actor)

    async def _destroy_payloads(self) -> None:
        while destroyed := await retirement.destroy_payloads(self._database, limit=BATCH, actor=self._actor):
            _log.info("keys.destroyed", count=destroyed)
            if destroyed < BATCH:
                break
