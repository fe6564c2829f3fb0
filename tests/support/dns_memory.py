"""A provider of DNS in memory, and how a provider is put under the suite of tests/conformance."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from acme_engine.dns.provider import DnsProvider
from acme_engine.dns01 import record_value
from tests.support.dns_apis import FakeApi


class MemoryDns:
    """A zone that everybody may change, and what was called."""

    hashes = False

    def __init__(self) -> None:
        self.values: defaultdict[str, set[str]] = defaultdict(set)
        self.calls: list[tuple[str, str, str]] = []
        self.fails: Exception | None = None
        self.closed = False

    async def add(self, name: str, value: str) -> None:
        await self._call("add", name, value)
        self.values[name].add(value)

    async def remove(self, name: str, value: str) -> None:
        await self._call("remove", name, value)
        self.values[name].discard(value)

    async def close(self) -> None:
        self.closed = True

    async def _call(self, what: str, name: str, value: str) -> None:
        self.calls.append((what, name, value))
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails


class MemoryLedger:
    """What may be in DNS, as (name, value)."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    async def put(self, name: str, value: str) -> None:
        if (name, value) not in self.rows:
            self.rows.append((name, value))

    async def delete(self, name: str, value: str) -> None:
        self.rows.remove((name, value))


@dataclass
class Bench:
    """A provider under test, and a look at what its zone holds that does not go through the provider."""

    provider: DnsProvider
    zone: str
    """A zone that the provider may change."""
    look_at: Callable[[str], Awaitable[set[str]]]
    """The TXT values of a name, as the zone's own servers answer; an empty set where there are none."""
    given: Callable[[str], str] = str
    """What the provider is told for a text, where it does not take any text."""
    api: FakeApi | None = None
    """What it asks over HTTP, where failures can be planned."""
    stranger: DnsProvider | None = None
    """The provider with a wrong credential, `dns_apis.WRONG`."""

    def __post_init__(self) -> None:
        self._texts: dict[str, str] = {}

    async def add(self, name: str, text: str) -> None:
        await self.provider.add(name, self._told(text))

    async def remove(self, name: str, text: str) -> None:
        await self.provider.remove(name, self._told(text))

    async def look(self, name: str) -> set[str]:
        """Return the texts whose values are there; a value that is of none, as it is."""
        return {self._texts.get(value, value) for value in await self.look_at(name)}

    async def close(self) -> None:
        await self.provider.close()
        if self.stranger is not None:
            await self.stranger.close()

    def _told(self, text: str) -> str:
        told = self.given(text)
        self._texts[record_value(told) if self.provider.hashes else told] = text
        return told
