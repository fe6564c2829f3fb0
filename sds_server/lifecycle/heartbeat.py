"""The heartbeat: says that this replica lives, so that what its streams say counts; forgets dead ones.

A replica that is killed, or does not reach the database, is dead to the others after `LIFE`: from then on its
streams hinder nobody.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.inventory import replicas
from sds_server.inventory.database import Database
from sds_server.log import get

EVERY: Final = timedelta(seconds=4)
LIFE: Final = timedelta(seconds=12)
"""Three beats. With one more until somebody looks, a dead replica's words count for 16 s at most."""

LASTING: Final = timedelta(seconds=30)
"""Several streams of a Target are told of after so long: a proxy that comes back has two for a moment, and a
replica that died has its own until it counts as dead."""

_log = get("heartbeat")


class Heartbeat:
    """Beats in `step`."""

    def __init__(
        self,
        *,
        database: Database,
        token: str,
        name: str,
        clock: Clock,
        actor: str,
        on_lapsed: Callable[[], None],
        on_rolled_up: Callable[[str], None],
    ) -> None:
        """``token`` is this life of the replica ``name``.

        ``on_lapsed`` is told when others may have taken us for dead, so that what our streams said does not
        count any more; ``on_rolled_up`` of each Secret of which somebody dead had something to say.
        """
        self._database = database
        self._token = token
        self._name = name
        self._clock = clock
        self._actor = actor
        self._first, self._ended = True, False
        self._on_lapsed = on_lapsed
        self._on_rolled_up = on_rolled_up
        self._several: dict[str, float | None] = {}

    async def step(self) -> None:
        """Beat, bury the dead, and tell of Targets that have several instances for long.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._ended:
            return
        lived = await replicas.live(self._database, self._token, self._name, lasts=LIFE, first=self._first)
        if not lived and not self._first:
            _log.warning("replica.lapsed")
        self._first = False
        if not lived:
            self._on_lapsed()
        for secret in sorted(await replicas.bury(self._database, actor=self._actor)):
            self._on_rolled_up(secret)
        await self._tell()

    async def end(self) -> None:
        """Say that this replica stops, and beat no more.

        Raises:
            Unavailable: the database does not answer.
        """
        self._ended = True
        await replicas.end(self._database, self._token)

    async def _tell(self) -> None:
        """Tell once of each Target that has several instances, if that is not over soon."""
        now = self._clock.monotonic()
        found = {item.name: item for item in await replicas.several(self._database, self._token)}
        self._several = {name: self._several.get(name, now) for name in found}
        for name, item in found.items():
            since = self._several[name]
            if since is not None and now - since >= LASTING.total_seconds():
                self._several[name] = None
                _log.warning(
                    "target.shared",
                    target=name,
                    identity=item.identity,
                    node=item.node_id,
                    instances=item.instances,
                )
