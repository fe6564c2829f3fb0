"""The HTTP API of PowerDNS Authoritative Server: whole sets only, so they are read, changed and written back.

What we do at once is kept apart by a lock for each name. Another replica has its own lock: a set is looked at
once more a moment after it was written, and changed again where somebody has put back an older one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, Self

from acme_engine.dns.api import Answer, Api, mapping, mappings, parents, quoted
from acme_engine.dns.locks import NameLocks
from acme_engine.dns.provider import TTL_S
from acme_engine.errors import DnsProviderError

TRIES: Final = 8
SETTLE_S: Final = 0.2
"""Before a set is looked at again, and up to as long besides; longer than it takes to read and write one."""

_PRIMARIES: Final = {"master", "primary", "producer"}
_KEY: Final = "check `api_key`, and `webserver-allow-from` at the server; it must be the zone's primary"


class PowerDns:
    """Changes the TXT set of a name."""

    hashes = False

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        server_id: str = "localhost",
        zone: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``zone`` None: the closest one that the server has is taken."""
        self._api = Api(endpoint, credentials=[api_key], headers={"X-API-Key": api_key})
        self._zones = f"/api/v1/servers/{server_id}/zones"
        self._zone = zone
        self._locks = NameLocks()
        self._sleep = sleep

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        return cls(
            settings["endpoint"],
            settings["api_key"],
            server_id=settings["server_id"],
            zone=settings.get("zone"),
        )

    async def add(self, name: str, value: str) -> None:
        """Put the value into the set."""
        await self._change(name, value, f"{name}: no value could be added", there=True)

    async def remove(self, name: str, value: str) -> None:
        """Take the value out of the set; the last one takes the set with it."""
        await self._change(name, value, f"{name}: a value could not be removed", there=False)

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def _change(self, name: str, value: str, what: str, *, there: bool) -> None:
        zone = await self._closest(name, what)
        content, lock = quoted(value), self._locks.of(name)
        for _ in range(TRIES):
            async with lock:
                found, rrset = await self._read(zone, name, what)
                records = mappings(rrset.get("records"))
                if any(record.get("content") == content for record in records) is there:
                    return
                others = [record for record in records if record.get("content") != content]
                wanted = [*others, {"content": content, "disabled": False}] if there else others
                await self._write(zone, name, wanted, what, ttl_s=rrset.get("ttl", TTL_S))
            if str(found.get("kind", "")).lower() in _PRIMARIES:
                # Else the secondaries hear of it a minute later. A hint: what is answered is all one.
                with suppress(DnsProviderError):
                    await self._api.ask("PUT", f"{self._zones}/{zone}/notify", what)
            await self._sleep(SETTLE_S * (1 + random.random()))  # noqa: S311 - only to come at different times
        raise DnsProviderError(
            f"{what}: somebody else changes the set all the time",
            retryable=True,
            hint="look who else writes this name; or use rfc2136, whose updates are single values",
        )

    async def _closest(self, name: str, what: str) -> str:
        for zone in [self._zone] if self._zone is not None else parents(name):
            answer = await self._asked("GET", "", what, params={"zone": f"{zone}."})
            for found in mappings(answer.document):
                if isinstance(found.get("id"), str):
                    return str(found["id"])
        raise DnsProviderError(
            f"{what}: {self._api.endpoint} has no zone that it is in",
            retryable=False,
            hint="name the zone's primary server, and `server_id` as it calls itself",
        )

    async def _read(self, zone: str, name: str, what: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the zone, and the name's TXT set, empty where there is none."""
        params = {"rrset_name": f"{name}.", "rrset_type": "TXT"}
        zone_of = mapping((await self._asked("GET", f"/{zone}", what, params=params)).document)
        for rrset in mappings(zone_of.get("rrsets")):
            # With these parameters it leaves out what is disabled; without them, a zone of any size would
            # come. A server before 4.6 does not know them, and shows the whole zone.
            if (rrset.get("name"), rrset.get("type")) == (f"{name}.", "TXT"):
                return zone_of, rrset
        return zone_of, {}

    async def _write(
        self, zone: str, name: str, records: list[Mapping[str, Any]], what: str, *, ttl_s: int
    ) -> None:
        rrset: dict[str, Any] = {"name": f"{name}.", "type": "TXT", "changetype": "DELETE"}
        if records:
            rrset |= {"changetype": "REPLACE", "ttl": ttl_s, "records": records}
        await self._asked("PATCH", f"/{zone}", what, json_body={"rrsets": [rrset]})

    async def _asked(self, method: str, path: str, what: str, **more: Any) -> Answer:
        answer = await self._api.ask(method, f"{self._zones}{path}", what, **more)
        if not answer.ok:
            words = mapping(answer.document).get("error")
            known = answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
            raise self._api.refused(what, answer, words=words, hint=_KEY if known else None)
        return answer
