"""What the demo does, step by step; a step counts only when a handshake has shown it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sds_server.demo.sabotage import store_mismatched_pair
from sds_server.demo.stage import DOMAIN, HOST, NODE, SECRET, Handshakes, NotVerified, Stage
from sds_server.inventory import progress
from sds_server.inventory.database import Database
from sds_server.model import Outcome

HANDSHAKES_WITHOUT_CONTROL_PLANE: Final = 50


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was verified: what was seen, and after how many seconds."""

    name: str
    seen: str
    seconds: float


Tell = Callable[[Step], None]


class Script:
    """Plays the steps on a Stage and tells of each when it is verified."""

    def __init__(self, stage: Stage, tell: Tell) -> None:
        self._stage = stage
        self._tell = tell

    async def play(self) -> None:
        """Play everything.

        Raises:
            NotVerified: a step was not seen to be true.
        """
        await self._step("ca", self._start_ca)
        await self._step("control plane", self._start_control_plane)
        await self._step("issued", self._issue)
        await self._step("rotated", self._rotate_under_handshakes)
        await self._step("gate", self._refuse_mismatched_pair)
        await self._step("killed", self._serve_without_control_plane)
        await self._step("restarted", self._come_back)

    async def _step(self, name: str, play: Callable[[], Awaitable[str]]) -> None:
        started = time.monotonic()
        seen = await play()
        self._tell(Step(name, seen, round(time.monotonic() - started, 3)))

    async def _start_ca(self) -> str:
        await self._stage.start_ca()
        return "Caddy answers as an internal ACME CA"

    async def _start_control_plane(self) -> str:
        await self._stage.start_control_plane()
        return "PostgreSQL and certvoy run; the secret is declared"

    async def _issue(self) -> str:
        await self._stage.start_envoy()
        await self._stage.certvoy("targets", "add", NODE, "--probe", f"{HOST}:{self._stage.envoy_port}")
        await self._stage.until("Envoy serves the first certificate", self._verified)
        await self._complete()
        return f"ordered over HTTP-01, served by Envoy, proved: leaf {await self._leaf()}"

    async def _rotate_under_handshakes(self) -> str:
        before = await self._stage.served()
        seen, stop = Handshakes(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stage.handshake_without_pause(seen, stop))
            try:
                await self._stage.certvoy("rotate", SECRET)
                await self._complete()
            finally:
                stop.set()
        after = await self._stage.served()
        if after == before or seen.failures:
            raise NotVerified(f"rotation: {before} -> {after}, failed handshakes: {seen.failures[:3]}")
        return f"{before[:16]}... -> {after[:16]}..., {seen.done} handshakes meanwhile, 0 failed"

    async def _refuse_mismatched_pair(self) -> str:
        before = await self._stage.served()
        async with self._inventory() as database:
            await store_mismatched_pair(database, SECRET)

            async def refused() -> bool:
                latest = await progress.latest(database, SECRET)
                return latest.last_error is not None and latest.last_error.get("rule") == "key"

            await self._stage.until("the gate refuses the pair", refused)
        if await self._stage.served() != before:
            raise NotVerified("Envoy no longer serves the certificate from before the mismatched pair")
        await self._stage.certvoy("rotate", SECRET)
        await self._complete()
        return f"a key that does not match was refused, {before[:16]}... went on, the rotation was done again"

    async def _serve_without_control_plane(self) -> str:
        before = await self._stage.served()
        self._stage.kill_control_plane()
        for _ in range(HANDSHAKES_WITHOUT_CONTROL_PLANE):
            if await self._stage.served() != before:
                raise NotVerified("Envoy serves something else since the control plane was killed")
        return f"control plane and PostgreSQL killed; {HANDSHAKES_WITHOUT_CONTROL_PLANE} handshakes, 0 failed"

    async def _come_back(self) -> str:
        before = await self._stage.served()
        await self._stage.start_control_plane()
        await self._stage.certvoy("rotate", SECRET)
        await self._complete()
        after = await self._stage.served()
        if after == before:
            raise NotVerified("the rotation after the restart is complete, but the old certificate is served")
        return f"nothing was lost: {before[:16]}... -> {after[:16]}..., proved"

    async def _complete(self) -> None:
        """Wait until certvoy calls the newest Rotation complete, and see for ourselves that it is true."""
        async with self._inventory() as database:

            async def completed() -> bool:
                return (await progress.latest(database, SECRET)).outcome is Outcome.COMPLETED

            try:
                await self._stage.until("the rotation is complete", completed)
            except NotVerified as e:
                raise NotVerified(f"{e}\n{await self._stage.certvoy('why', SECRET)}") from None
        if await self._leaf() not in await self._stage.certvoy("why", SECRET):
            raise NotVerified("certvoy calls the rotation complete, but Envoy serves another leaf")

    async def _leaf(self) -> str:
        return await self._stage.served()

    async def _verified(self) -> bool:
        return bool(await self._stage.served())

    @asynccontextmanager
    async def _inventory(self) -> AsyncIterator[Database]:
        database = await self._stage.inventory()
        try:
            yield database
        finally:
            await database.close()


def curl(stage: Stage) -> str:
    """Return a line that shows the certificate to whoever types it."""
    return (
        f"curl --cacert {stage.root} --resolve {DOMAIN}:{stage.envoy_port}:{HOST}"
        f" https://{DOMAIN}:{stage.envoy_port}/"
    )
