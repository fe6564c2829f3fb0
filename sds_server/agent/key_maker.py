"""Makes the keys of a proxy that gets its chains over SDS: before they are wanted, and where it finds them.

The proxy's chain comes from the control plane, which names the key by its path on this host. What is left to
do here is to have a key lie there before its chain can exist, to ask for another where one is lost, and to
remove what no chain can name any more.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from random import Random
from typing import Final

from sds_server.agent.proxy_keys import ProxyKeys
from sds_server.agent.requester import Requester
from sds_server.clock import Clock
from sds_server.errors import CertvoyError
from sds_server.log import get

FIRST_PAUSE_S: Final = 1.0
"""After a failure: an agent that starts has no credential yet for some moments."""

_log = get("requester")


def pause_s(failures: int, *, every_s: float) -> float:
    """Return how long to wait after so many failures in a row; never longer than after a good round."""
    if failures == 0:
        return every_s
    return float(min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20), every_s))


class KeyMaker:
    """One Secret's, whose request is looked after every so often."""

    def __init__(
        self,
        secret: str,
        kept: ProxyKeys,
        requester: Requester,
        *,
        alone: Callable[[], AbstractContextManager[None]],
        every: timedelta,
        clock: Clock,
        rng: Random,
    ) -> None:
        """``alone`` lets no second agent work in the directory, as long as it is held."""
        self._secret = secret
        self._kept = kept
        self._requester = requester
        self._every_s = every.total_seconds()
        self._clock = clock
        self._rng = rng
        self.alone = alone

    @property
    def secret(self) -> str:
        """The secret whose keys it makes."""
        return self._secret

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Go on until cancelled; ``on_ready`` is called when the control plane was asked first."""
        told, failures = False, 0
        while True:
            try:
                asked = await self.step()
            except CertvoyError as e:
                asked = False
                _log.warning("key.not_requested", secret=self._secret, error=str(e), hint=e.next_step)
            failures = 0 if asked else failures + 1
            if asked and not told:
                told = True
                on_ready()
            await self._clock.sleep(pause_s(failures, every_s=self._every_s) * self._rng.uniform(0.75, 1.0))

    async def step(self) -> bool:
        """See to it that the next key lies there and is asked for; False: the control plane did not answer.

        Raises:
            Conflict: another target has the keys of this secret.
            OperatorError: a key cannot be written.
        """
        self._kept.lay_out()
        wanted = await self._requester.ask()
        if wanted is None:
            return False
        current = wanted.held[0] if wanted.held else None
        before = wanted.held[1].spki_sha256 if len(wanted.held) > 1 else None
        has = current is not None and self._kept.find(current.spki_sha256) is not None
        self._requester.lost = None if current is None or has else current.generation
        await self._requester.meet(wanted, current.spki_sha256 if current is not None and has else None)
        if current is not None and has:
            removed = self._kept.tidy(current=current.spki_sha256, before=before)
            if removed:
                _log.info("keys.removed", secret=self._secret, keys=removed)
        return True
