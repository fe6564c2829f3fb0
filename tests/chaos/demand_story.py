"""A story of names on demand: there is no Secret until a proxy asks for its name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sds_server.programs.child import free_port
from tests.chaos.impostors import XdsImpostor
from tests.chaos.stories import Ca, Delivered
from tests.chaos.targets import HOST, Target

NAME = "s0.example.test"


class AskedFor(Delivered):
    """A name is asked for, again by each connection, and becomes one Secret with one Certificate."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._secrets = {NAME: (NAME,)}
        target = Target("asker", NAME, (NAME,), free_port())
        ports = [self._plane.sds_port]
        asker = XdsImpostor(target, directory / target.name, self._plane.clients, ports)
        self._impostors = [asker]
        self._plane.settings["secrets"] = {}
        self._plane.settings["grants"] = [{"identity": asker.identity, "names": [NAME], "issue": True}]
        self._plane.settings["on_demand"] = [{"name": "sites", "names": [NAME], "issuer": "internal"}]

    async def _push(self) -> None:
        (asker,) = self._impostors

        async def registered() -> bool:
            target = asker.target
            body = {
                "probe": f"{HOST}:{target.port}",
                "identity": asker.identity,
                "node_id": target.name,
            }
            return await self._ask("PUT", f"/v1/targets/{target.name}", body)

        if await self._alive_until(registered) and not asker.started:
            await asker.start()

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        counted = await self._fetch("SELECT count(*) FROM on_demand_name")
        created = await self._fetch("SELECT count(*) FROM certaudit WHERE action = 'on_demand.created'")
        if (counted, created) != (1, 1):
            found.append(f"{counted} names on demand, created {created} times")
        return found
