"""A story of custody: every key goes from one KEK to another, by a control plane that dies over it."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from sds_server.clock import SystemClock
from sds_server.errors import CustodyError
from sds_server.inventory import deployment, sealed_keys
from sds_server.inventory.database import open_database
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from tests.chaos.stories import Ca, Story
from tests.support.control_plane import until


class Rewrapped(Story):
    """What was issued under one KEK is rewrapped by another, and opens by that alone."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._old, self._new = ({"key_file": str(directory / name)} for name in ("old-kek", "new-kek"))

    def _vary(self) -> tuple[int, int]:
        secrets, _ = super()._vary()
        return secrets, 1

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        self._plane.settings["kms"] = self._old
        await self._plane.start()
        await until(super()._well)
        await self._plane.stop()
        self._plane.settings["kms"] = {**self._new, "previous": [self._old]}

    async def _push(self) -> None:
        await self._alive_until(self._rewrap)

    async def _rewrap(self) -> bool:
        return await self._ask("POST", "/v1/kms/rewrap", {})

    async def _mended(self) -> bool:
        return await self._rewrap()

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        database = await open_database(self._connect, size=1)
        try:
            identity, key = await deployment.identify(database)
            assert key is not None
            kms = LocalKms(Path(self._new["key_file"]))
            sealer = Sealer(kms, deployment=identity, clock=SystemClock())
            try:
                await sealer.unwrap_key(key.wrapped, purpose="version", kek_uri=key.kek_uri)
                for row in await self._sql.fetch("SELECT id FROM key_material"):
                    await sealer.open(await sealed_keys.get(database, row["id"]))
            except CustodyError as e:
                found.append(f"does not open by the new KEK alone: {e}")
        finally:
            await database.close()
        audited = "SELECT sum((payload::json->>'keys')::int) FROM certaudit WHERE action = 'keys.rewrapped'"
        told = await self._fetch(audited)
        kept = await self._fetch("SELECT count(*) FROM key_material") + 1
        if told != kept:
            found.append(f"the audit tells of {told} keys rewrapped, of {kept}")
        return found
