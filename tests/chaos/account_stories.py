"""Stories of our account at a CA: what it may order, and the key that signs for it."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from tests.chaos.stories import Ca, Story
from tests.support.control_plane import until
from tests.support.pebble import Pebble

DOMAIN = timedelta(days=7) / 50
"""What one certificate takes of a registered domain's limit."""


class Budgeted(Story):
    """The first issuance under a CA's limits: whoever dies over it takes of them once all the same."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        limits = {"orders": "300/3h", "domain": "50/7d", "names": "5/7d"}
        self._plane.settings["issuers"]["internal"]["limits"] = limits

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        # What is taken fills up again while we look: a whole certificate is told from that.
        taken = await self._fetch("SELECT full_at - now() FROM rate_bucket WHERE counted = 'domain'")
        certificates = 0 if taken is None else -(-taken // DOMAIN)
        if certificates != len(self._secrets):
            found.append(f"{certificates} taken of the domain's limit, for {len(self._secrets)} certificates")
        return found


class Rekeyed(Story):
    """The account gets another key, from a CA that takes one; then something is ordered with it."""

    ends: ClassVar[set[str]] = {"completed_unobserved"}
    bought_besides: ClassVar[int] = 1

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._issued = self._rotated = False

    def _vary(self) -> tuple[int, int]:
        return 1, 1

    async def _open(self, stack: AsyncExitStack) -> None:
        home = self._directory / "pebble"
        home.mkdir()
        self._pebble = Pebble(home, http_port=self._ca.http01_port, kind=True)
        stack.push_async_callback(self._pebble.stop)
        await self._pebble.ready()
        self._plane.settings["issuers"]["internal"] = {
            "directory": self._pebble.directory_url,
            "ca_file": str(self._pebble.ca_file),
            "terms_agreed": True,
        }
        await super()._open(stack)
        await self._plane.start()
        await until(super()._well)
        await self._plane.stop()
        self._issued = True
        self._url = await self._fetch("SELECT account_url FROM acme_account")
        self._first_key = await self._fetch("SELECT key_id FROM acme_account")

    async def _push(self) -> None:
        await self._alive_until(self._rekey)

    async def _rekey(self) -> bool:
        return await self._ask("POST", "/v1/issuers/internal/account/key", {})

    async def _mended(self) -> bool:
        """Order once more, which the CA takes from the account's own key alone."""
        if not self._issued:
            return True
        if not self._rotated:
            self._rotated = await self._rotate()
            return False
        return int(await self._fetch("SELECT count(*) FROM certificate")) > 1

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        planned = await self._fetch("SELECT count(*) FROM certaudit WHERE action = 'account.key_planned'")
        changed = await self._fetch("SELECT count(*) FROM certaudit WHERE action = 'account.key_changed'")
        open_plans = await self._fetch("SELECT count(*) FROM acme_account WHERE next_key_id IS NOT NULL")
        if planned != changed + open_plans:
            found.append(f"{planned} keys planned, {changed} changed, {open_plans} open")
        if await self._fetch("SELECT account_url FROM acme_account") != self._url:
            found.append("the account is another one")
        if not open_plans and await self._fetch("SELECT key_id FROM acme_account") == self._first_key:
            found.append("the account has its first key")
        return found

    def _count(self, requests: list[str]) -> None:
        assert not requests, "the other CA was asked"
        assert (2, 2) == (self._pebble.orders(), self._pebble.issued())
