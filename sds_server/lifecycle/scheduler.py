"""The scheduler: what time brings. Renewals, Certificates that lapsed, keys kept long enough, old tokens."""

from datetime import datetime, timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.inventory import audit, budgets, certificates, finished, retirement, rotations, targets
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import Tokens
from sds_server.log import get

BATCH: Final = 100
FORGET_EVERY: Final = timedelta(hours=1)
"""What is finished is looked through so often: nothing waits for it, and much of it may have to stay."""

_log = get("scheduler")


class Scheduler:
    """Any number of replicas may run one: rows that another holds are passed over."""

    def __init__(
        self,
        *,
        database: Database,
        tokens: Tokens,
        clock: Clock,
        actor: str,
        history: timedelta = finished.DEFAULT,
    ) -> None:
        """``history``: so long are finished Rotations kept."""
        self._database = database
        self._tokens = tokens
        self._clock = clock
        self._actor = actor
        self._history = history
        self._forget_at: datetime | None = None

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
        await self._destroy_keys()
        while forgotten := await targets.sweep(self._database, limit=BATCH, actor=self._actor):
            _log.info("targets.forgotten", count=forgotten)
            if forgotten < BATCH:
                break
        await self._tokens.sweep()
        await budgets.sweep(self._database, limit=BATCH)
        await audit.end_windows(self._database, limit=BATCH, actor=self._actor)
        await self._forget()

    async def _forget(self) -> None:
        now = self._clock.now()
        if self._forget_at is not None and now < self._forget_at:
            return
        while forgotten := await finished.forget(self._database, older_than=self._history, limit=BATCH):
            _log.info("rotations.forgotten", count=forgotten)
            if forgotten < BATCH:
                break
        self._forget_at = now + FORGET_EVERY

    async def _destroy_keys(self) -> None:
        for destroy in (retirement.destroy, retirement.destroy_of_orders):
            while True:
                looked_at, destroyed = await destroy(self._database, limit=BATCH, actor=self._actor)
                if destroyed:
                    _log.info("keys.destroyed", count=destroyed)
                if looked_at < BATCH:
                    break
        while destroyed := await retirement.destroy_payloads(self._database, limit=BATCH, actor=self._actor):
            _log.info("keys.destroyed", count=destroyed)
            if destroyed < BATCH:
                break
