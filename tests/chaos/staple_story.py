"""A story of a staple: the CA's responder is asked by a control plane that dies over its answer."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.chaos.stories import HOST, Ca, Story
from tests.support.pki import authority, key_pem
from tests.support.responder import Responder

RELEASE = (
    "UPDATE staple SET next_at = certvoy_now() WHERE response IS NULL"
    " AND next_at BETWEEN certvoy_now() AND certvoy_now() + interval '58 seconds' RETURNING 1"
)
"""Who died over an answer keeps others from it for a minute: no story waits for that."""


class Stapled(Story):
    """A pair that somebody brings, whose CA has a responder; nothing is ordered."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._secrets = {}
        self._plane.settings |= {"secrets": {}, "push": {"allow": [f"{HOST}/32"]}}
        self._authority = authority("Staples root").intermediate("Staples")

    def _vary(self) -> tuple[int, int]:
        return 1, 1

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        self._responder = await stack.enter_async_context(Responder(self._authority))
        self._pair = self._authority.issue(dns=["stapled.example.test"], responder=self._responder.url)
        self._responder.known[self._pair.certificate.serial_number] = self._pair.certificate

    async def _push(self) -> None:
        await self._alive_until(self._brought)
        await self._alive_until(self._released)

    async def _brought(self) -> bool:
        pair = {"chain": self._pair.chain_pem.decode(), "private_key": key_pem(self._pair.key).decode()}
        return await self._ask("PUT", "/v1/secrets/stapled/certificate", pair)

    async def _released(self) -> bool:
        await self._fetch(RELEASE)
        return await self._mended()

    async def _mended(self) -> bool:
        return bool(await self._fetch("SELECT bool_or(response IS NOT NULL) FROM staple"))

    async def _well(self) -> bool:
        return await self._released()

    async def _judge(self) -> list[str]:
        found = []
        for what, query, expected in (
            ("served", "SELECT count(*) FROM certificate WHERE status IN ('issued', 'active')", 1),
            ("staples", "SELECT count(*) FROM staple WHERE number = 1 AND error IS NULL", 1),
            ("orders", "SELECT count(*) FROM acme_order", 0),
        ):
            if (counted := await self._fetch(query)) != expected:
                found.append(f"{what}: {counted}, not {expected}")
        return found

    def _count(self, requests: list[str]) -> None:
        assert [] == requests, "nobody asks a CA for what is brought"
