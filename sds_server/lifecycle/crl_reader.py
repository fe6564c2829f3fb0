"""The CRL reader: looks whether CAs have revoked what we hold, in the lists that the certificates name.

Who has access to a CA, or has stolen a key, revokes without us. Where there is no OCSP responder, and ARI
moves no window, the list alone says so. Each is fetched once for all certificates that it tells of.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from sds_server.clock import Clock
from sds_server.crls import content
from sds_server.crls.content import Listed
from sds_server.crls.fetch import fetch
from sds_server.inventory import crls
from sds_server.inventory.crls import Due
from sds_server.inventory.database import Database
from sds_server.lifecycle.together import to_their_ends
from sds_server.log import get
from sds_server.staples import response
from sds_server.targets.address import Network
from sds_server.targets.guarded import ANYWHERE, NOT_MODIFIED, Unanswered

AT_ONCE: Final = 4
"""Each may be `fetch.BYTES_MAX` long, and is read in a thread."""

BATCH: Final = 16
"""All of it is looked at before `crls.LEASE` is over, should each server hang to the last."""

_log = get("crl")


class CrlReader:
    """Any number of replicas may run one: each list is looked at by one of them."""

    def __init__(
        self,
        *,
        database: Database,
        allowed: Sequence[Network],
        without: Sequence[str],
        clock: Clock,
        rng: Random,
        actor: str,
    ) -> None:
        """``allowed``: special addresses at which a list may be that an uploaded certificate names.

        ``without``: issuers whose lists are not looked at.
        """
        self._database = database
        self._allowed = tuple(allowed)
        self._without = list(without)
        self._clock = clock
        self._rng = rng
        self._actor = actor
        self.on_answer: Callable[[str], None] = lambda _result: None

    async def step(self) -> None:
        """Look at all that is due.

        Raises:
            Unavailable: the database does not answer; what was looked at is looked at again after its lease.
        """
        while due := await crls.claim(self._database, limit=BATCH):
            limit = asyncio.Semaphore(AT_ONCE)
            await to_their_ends(self._look(one, limit) for one in due)
            if len(due) < BATCH:
                break

    async def _look(self, due: Due, limit: asyncio.Semaphore) -> None:
        told_by = await crls.told_by(self._database, due, without=self._without)
        if not told_by:
            await crls.rest(self._database, due, again_in=content.EVERY)
            return
        async with limit:
            try:
                answer = await fetch(
                    due.point.url, etag=due.etag, allowed=self._allowed if due.uploaded else ANYWHERE
                )
                if answer.status == NOT_MODIFIED:
                    await self._unchanged(due)
                    return
                listed = await asyncio.to_thread(
                    content.judge, answer.body, due.point, wanted=told_by.keys(), now=self._clock.now()
                )
            except Unanswered as e:
                listed = str(e)
        if isinstance(listed, str):
            await self._failed(due, listed)
            return
        for serial_number, entry in listed.revoked.items():
            told = told_by[serial_number]
            if await crls.revoked(self._database, told, entry, uploaded=due.uploaded, actor=self._actor):
                self.on_answer("revoked")
                _log.error(
                    "crl.revoked",
                    secret=told.secret,
                    generation=told.generation,
                    url=due.point.url,
                    error=entry.said,
                )
        await self._read(due, listed, answer.etag)

    async def _read(self, due: Due, listed: Listed, etag: str | None) -> None:
        await crls.read(
            self._database,
            due,
            this_update=listed.this_update,
            next_update=listed.next_update,
            etag=etag,
            again_in=content.next_in(listed, now=self._clock.now(), jitter=self._rng.random()),
        )
        self.on_answer("read")
        next_update = None if listed.next_update is None else listed.next_update.isoformat()
        _log.info("crl.read", url=due.point.url, next_update=next_update)

    async def _unchanged(self, due: Due) -> None:
        """Its server says that it is the one of before: which ends all the same."""
        now = self._clock.now()
        if due.this_update is None or (due.next_update is not None and due.next_update <= now):
            await self._failed(due, "it has ended, and its server has no other")
            return
        before = Listed(due.this_update, due.next_update, {})
        await crls.read(
            self._database,
            due,
            this_update=due.this_update,
            next_update=due.next_update,
            etag=due.etag,
            again_in=content.next_in(before, now=now, jitter=self._rng.random()),
        )
        self.on_answer("unchanged")

    async def _failed(self, due: Due, why: str) -> None:
        again_in = response.retry_in(attempts=due.attempts + 1, next_update=None, now=self._clock.now())
        error = {
            "what": why,
            "hint": "is the CA's revocation list well? `crl: off` of its issuer has it looked at no more",
        }
        await crls.failed(self._database, due, error=error, again_in=again_in)
        self.on_answer("failed")
        _log.warning("crl.failed", url=due.point.url, error=why, again_s=round(again_in.total_seconds()))
