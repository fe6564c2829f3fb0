"""The watcher: looks for ever whether what was proved is still served, and has it healed where it is not.

A proxy can lose a certificate that it had: a listener update that dropped its secret, a restart with an old
file, somebody's hand. It is found by looking, offered the certificate again, and named until it serves it.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.errors import CertvoyError
from sds_server.inventory import bundle_watches, watches
from sds_server.inventory.bundle_watches import BundleWatch
from sds_server.inventory.database import Database
from sds_server.inventory.watches import Seen, Watch
from sds_server.lifecycle import looks
from sds_server.lifecycle.together import to_their_ends
from sds_server.log import get
from sds_server.targets.verdict import Stated

AT_ONCE: Final = 32
BATCH: Final = 200

SOON_S: Final = 0.1
"""A proxy that said yes a moment ago may still be switching."""

_log = get("watcher")


class Watcher:
    """Looks at each Target about once in ``every``, all replicas together; at once at who says something."""

    def __init__(self, *, database: Database, every: timedelta, clock: Clock, actor: str) -> None:
        self._database = database
        self._every = every
        self._clock = clock
        self._actor = actor
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._late: set[str] = set()
        self.on_hint: Callable[[], None] = lambda: None
        self.on_seen: Callable[[Seen], None] = lambda _seen: None

    def look_at(self, secret: str) -> None:
        """A Target of this Secret said something, and nothing of it is being rolled out: it came late."""
        self._late.add(secret)
        self.on_hint()

    async def step(self) -> None:
        """Look at all that is due.

        Raises:
            Unavailable: the database does not answer.
        """
        late, self._late = self._late, set()
        try:
            for secret in sorted(late):
                await self._look(await watches.unproved(self._database, secret, limit=BATCH), soon=True)
                await self._look_at(await bundle_watches.unproved(self._database, secret, limit=BATCH))
        except CertvoyError:
            self._late |= late
            raise
        more = True
        while more:
            due, claimed = await watches.claim(self._database, every=self._every, limit=BATCH)
            more = len(claimed) == BATCH
            await self._look(due)
            await self._look_at(await bundle_watches.of_keys(self._database, claimed))

    async def _look(self, due: Iterable[Watch], *, soon: bool = False) -> None:
        await to_their_ends(self._watch(watch, soon=soon) for watch in due)

    async def _watch(self, watch: Watch, *, soon: bool) -> None:
        async with self._limit:
            look = await looks.look(watch.target, watch.wanted, told=lambda _result: None)
            if look.missing or (soon and look.by is None and look.served is not None):
                await self._clock.sleep(SOON_S)
                look = await looks.look(watch.target, watch.wanted, told=lambda _result: None)
        seen = await watches.settle(self._database, watch, look, actor=self._actor)
        self._tell(seen, watch, watch.wanted.generation, look.error)

    async def _look_at(self, due: Iterable[BundleWatch]) -> None:
        """Ask Envoys of their trust bundles, as of certificates."""
        await to_their_ends(map(self._watch_bundle, due))

    async def _watch_bundle(self, watch: BundleWatch) -> None:
        assert watch.target.admin is not None  # noqa: S101 - asked for
        async with self._limit:
            stated, error = await looks.bundle(watch.target.admin, watch.content, watch.before_content)
            if stated not in {None, Stated.LOADED}:
                await self._clock.sleep(SOON_S)
                stated, error = await looks.bundle(watch.target.admin, watch.content, watch.before_content)
        seen = await bundle_watches.settle(self._database, watch, stated, error=error, actor=self._actor)
        self._tell(seen, watch, watch.generation, f"its /certs: {stated}")

    def _tell(self, seen: Seen, watch: Watch | BundleWatch, generation: int, error: str | None) -> None:
        self.on_seen(seen)
        told = {"secret": watch.secret, "target": watch.target.name, "generation": generation}
        if seen is Seen.STALE:
            _log.error("delivery.stale", error=error, **told)
        elif seen is Seen.HEALED:
            assert watch.stale_since is not None  # noqa: S101 - or it was not stale
            seconds = (self._clock.now() - watch.stale_since).total_seconds()
            _log.info("delivery.healed", seconds=round(seconds, 3), **told)
