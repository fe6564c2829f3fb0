"""Cloudflare's API, version 4, by an API token; records are added one by one, and deleted by their ids."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

from acme_engine.dns.api import Answer, Api, mapping, mappings, parents, quoted
from acme_engine.dns.provider import TTL_S
from acme_engine.errors import DnsProviderError

ALREADY_THERE: Final = {81057, 81058}
"""Codes: such a record, or an identical one, already exists."""

GONE: Final = 81044
"""Code: the record does not exist."""

PER_PAGE: Final = 100
MAX_PAGES: Final = 50

_TOKEN: Final = "give the token DNS:Edit, and Zone:Read unless `zone_id` is set, for this zone"  # noqa: S105


class Cloudflare:
    """Adds and deletes records of the zones that a token may change."""

    hashes = False

    def __init__(self, token: str, *, endpoint: str, zone_id: str | None = None) -> None:
        """``zone_id`` None: the zone is looked up by its name, which the token must be allowed to."""
        self._api = Api(endpoint, credentials=[token], headers={"Authorization": f"Bearer {token}"})
        self._zone_id = zone_id

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        return cls(settings["api_token"], endpoint=settings["endpoint"], zone_id=settings.get("zone_id"))

    async def add(self, name: str, value: str) -> None:
        """Create one record; that it is there already is no error."""
        what = f"{name}: no value could be added"
        zone = await self._zone(name, what)
        record = {"type": "TXT", "name": name, "content": quoted(value), "ttl": TTL_S}
        answer = await self._api.ask("POST", f"/zones/{zone}/dns_records", what, json_body=record)
        if not _yes(answer) and not _codes(answer) & ALREADY_THERE:
            raise self._refused(what, answer)

    async def remove(self, name: str, value: str) -> None:
        """Delete each record of this very content; the API's own comparisons ignore case."""
        what = f"{name}: a value could not be removed"
        zone = await self._zone(name, what)
        for record in await self._records(zone, name, what):
            if str(record.get("content", "")).strip('"') != value:
                continue
            answer = await self._api.ask("DELETE", f"/zones/{zone}/dns_records/{record['id']}", what)
            if not _yes(answer) and GONE not in _codes(answer) and answer.status != HTTPStatus.NOT_FOUND:
                raise self._refused(what, answer)

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def _zone(self, name: str, what: str) -> str:
        """Return the id of the closest zone; not remembered, as a zone may be made below it at any time."""
        if self._zone_id is not None:
            return self._zone_id
        for zone in parents(name):
            answer = await self._api.ask("GET", "/zones", what, params={"name": zone})
            if not _yes(answer):
                raise self._refused(what, answer)
            for found in mappings(mapping(answer.document).get("result")):
                if found.get("name") == zone and isinstance(found.get("id"), str):
                    return str(found["id"])
        raise DnsProviderError(
            f"{what}: Cloudflare shows this token no zone that it is in", retryable=False, hint=_TOKEN
        )

    async def _records(self, zone: str, name: str, what: str) -> list[Mapping[str, Any]]:
        records: list[Mapping[str, Any]] = []
        for page in range(1, MAX_PAGES + 1):
            params = {"type": "TXT", "name": name, "page": str(page), "per_page": str(PER_PAGE)}
            answer = await self._api.ask("GET", f"/zones/{zone}/dns_records", what, params=params)
            if not _yes(answer):
                raise self._refused(what, answer)
            found = mappings(mapping(answer.document).get("result"))
            records += [record for record in found if isinstance(record.get("id"), str)]
            if len(found) < PER_PAGE:
                break
        return records

    def _refused(self, what: str, answer: Answer) -> DnsProviderError:
        errors = mappings(mapping(answer.document).get("errors"))
        words = "; ".join(f"{error.get('message')} (code {error.get('code')})" for error in errors)
        return self._api.refused(what, answer, words=words or None, hint=_TOKEN)


def _yes(answer: Answer) -> bool:
    return answer.ok and mapping(answer.document).get("success") is True


def _codes(answer: Answer) -> set[object]:
    return {error.get("code") for error in mappings(mapping(answer.document).get("errors"))}
