"""Stories of a fleet that has a Certificate already: the next one goes to canaries first.

Steady clients look at every Target the whole time; whatever dies, each of their handshakes must be well.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from tests.chaos.clients import Clients
from tests.chaos.impostors import Conduct
from tests.chaos.stories import Ca, Delivered
from tests.chaos.targets import Target

FLEET, FLEET_MAX = 2, 5
"""One Target has no canaries; from four on two are asked at once."""

CANARIES, FANNED_OUT, TAKEN_BACK, COMPLETED = (
    "rotation.canaries",
    "rotation.fanned_out",
    "rotation.rolled_back",
    "rotation.completed",
)


class Staged(Delivered):
    """The second Certificate goes to a canary, is proved there, and goes to all."""

    bought_besides: ClassVar[int] = 1
    steps: ClassVar[Sequence[str]] = (COMPLETED, CANARIES, FANNED_OUT, COMPLETED)
    """What the audit must tell, in this order; a canary that is slow to answer lets one more be asked."""

    def _fleet(self) -> int:
        return self._rng.randint(FLEET, FLEET_MAX) if self._varied else FLEET

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        targets = [impostor.target for impostor in self._impostors]
        self._clients = await stack.enter_async_context(Clients(self._ca.caddy.ca_file, targets))

    async def _push(self) -> None:
        async def rotating() -> bool:
            # Asked again it would be taken from its canaries, for another one.
            if await self._fetch("SELECT count(*) FROM certrotation") == 1:
                await self._rotate()
                return False
            return True

        await super()._push()
        if await self._completed(1):
            self._turn()
            await self._alive_until(rotating)

    def _turn(self) -> None:
        """Let the Targets be, from the second Certificate on, what they are in this story."""

    async def _judge(self) -> list[str]:
        found = await super()._judge() + self._clients.failures
        query = "SELECT action FROM certaudit WHERE action = ANY ($1) ORDER BY id"
        rows = await self._sql.fetch(query, [CANARIES, FANNED_OUT, TAKEN_BACK, COMPLETED])
        steps = [step for step, _ in groupby(row["action"] for row in rows)]
        if steps != list(self.steps):
            found.append(f"the audit tells {steps}")
        leaf = await self._fetch("SELECT fingerprint FROM certificate WHERE status = 'active'")
        for target in (impostor.target for impostor in self._impostors):
            await self._clients.look(target)
            if target.runs[-1].fingerprint != leaf:
                found.append(f"{target.name} does not serve the active certificate")
        return found

    async def _told(self, action: str) -> int:
        """Return how often the audit tells of this."""
        return int(await self._sql.fetchval("SELECT count(*) FROM certaudit WHERE action = $1", action))

    def _watched(self) -> Sequence[Target]:
        return [impostor.target for impostor in self._impostors]


class TakenBack(Staged):
    """No Target serves the second Certificate, which is taken back; once they are mended a third is had.

    In the plain story all of them refuse it; in others some say yes, and serve on with the first.
    """

    bought_besides: ClassVar[int] = 2
    steps: ClassVar[Sequence[str]] = (COMPLETED, CANARIES, TAKEN_BACK, CANARIES, FANNED_OUT, COMPLETED)

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        bad = (Conduct.REFUSE, Conduct.DEAF) if self._varied else (Conduct.REFUSE,)
        self._conducts = [self._rng.choice(bad) for _ in self._impostors]

    def _turn(self) -> None:
        for impostor, conduct in zip(self._impostors, self._conducts, strict=True):
            impostor.conduct = conduct

    async def _mended(self) -> bool:
        if not await self._fetch("SELECT count(*) FROM certificate WHERE status = 'rejected'"):
            return False
        for impostor in self._impostors:
            impostor.heal()
        return await self._hastened()

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        for impostor in self._impostors:
            if impostor.resent:
                found.append(f"{impostor.target.name} was sent again what it had refused")
        return found


class Relapsed(Staged):
    """After the second Rotation one Target serves the first pair again, until it is offered other bytes."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._plane.settings["rotation"]["watch"] = "200ms"
        self._relapsed = False

    async def _push(self) -> None:
        await super()._push()
        if await self._completed(2) and not self._relapsed:
            self._impostors[0].relapse()
            self._relapsed = True

    async def _mended(self) -> bool:
        return bool(await self._told("delivery.healed"))

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        for action in ("delivery.stale", "delivery.healed"):
            if (times := await self._told(action)) != 1:
                found.append(f"the audit tells {times} times of {action}")
        if await self._fetch("SELECT count(*) FROM delivery WHERE stale_since IS NOT NULL"):
            found.append("a target is stale still")
        return found

    def _watched(self) -> Sequence[Target]:
        return super()._watched()[1:]  # the first one does not serve what it was proved to, on purpose


class Outlived(Staged):
    """After the second Rotation the time is over for which the first key is kept."""

    keys_destroyed: ClassVar[int] = 1

    async def _push(self) -> None:
        await super()._push()
        if await self._completed(2):
            # Turning the clock would let the CA's certificates expire, which do not live for so long.
            await self._sql.execute("UPDATE retired_key SET destroy_at = certvoy_now()")

    async def _mended(self) -> bool:
        return not await self._fetch("SELECT count(*) FROM retired_key")

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        if (times := await self._told("key.destroyed")) != 1:
            found.append(f"the audit tells {times} times of key.destroyed")
        served = "id IN (SELECT key_id FROM certificate WHERE status = 'active')"
        if await self._fetch(f"SELECT count(*) FROM key_material WHERE {served} AND envelope IS NULL"):
            found.append("the key is destroyed of what is served")
        return found
