"""A name and its wildcard are proved by DNS: whoever dies meanwhile leaves nothing there."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.chaos.stories import Ca, Story
from tests.support.bind import KEY_NAME, KEY_SECRET, Bind, Zone


class ByDns(Story):
    """The first issuance of a few Secrets, each of a name and its wildcard: two values at one name."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._secrets = {name: (names[0], f"*.{names[0]}") for name, names in self._secrets.items()}
        (directory / "tsig").write_text(KEY_SECRET)
        server = f"127.0.0.1:{ca.dns_port}"
        self._plane.settings["issuers"]["internal"] |= {
            "challenge": "dns-01",
            "dns": {
                "provider": "rfc2136",
                "server": server,
                "key_name": KEY_NAME,
                "key_secret": {"file": str(directory / "tsig")},
                "nameservers": [server],
            },
        }
        self._plane.settings["secrets"] = {
            name: {"domains": list(domains), "issuer": "internal"} for name, domains in self._secrets.items()
        }
        self._waited = False

    async def _open(self, stack: AsyncExitStack) -> None:
        self._bind = Bind(self._directory / "bind", [Zone("example.test")], self._ca.dns_port)
        stack.push_async_callback(self._bind.stop)
        await self._bind.ready()
        await super()._open(stack)

    async def _mended(self) -> bool:
        """Let the time pass for which a dead process holds what it was removing; say whether all is gone."""
        if not self._waited:
            self._waited = True
            await self._sql.execute("UPDATE challenge_value SET held_until = NULL")
        return not await self._fetch("SELECT count(*) FROM challenge_value")

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        for names in self._secrets.values():
            if left := await self._bind.txt(f"_acme-challenge.{names[0]}"):
                found.append(f"left in DNS at {names[0]}: {left}")
        return found
