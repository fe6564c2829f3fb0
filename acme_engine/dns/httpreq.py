"""A webhook of your own, in the wire form of lego's ``httpreq``: POST /present and /cleanup, in both modes.

By default it gets ``{"fqdn", "value"}``, in mode RAW ``{"domain", "token", "keyAuth"}`` and hashes by itself.
Whether a value is added beside others is up to the webhook; it must be.
"""

import base64
from collections.abc import Mapping
from typing import Final, Self

from acme_engine.dns.api import Api
from acme_engine.dns.provider import challenged, token_of
from acme_engine.errors import Misconfigured

RAW: Final = "raw"


class Httpreq:
    """Has a webhook add and remove values."""

    def __init__(self, endpoint: str, *, login: tuple[str, str] | None = None, raw: bool = False) -> None:
        """``login`` is sent as HTTP basic authentication."""
        headers, secrets = {}, []
        if login is not None:
            pair = base64.b64encode(":".join(login).encode()).decode()
            headers, secrets = {"Authorization": f"Basic {pair}"}, [login[1], pair]
        self._api = Api(endpoint, credentials=secrets, headers=headers)
        self.hashes = raw

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        username, password = settings.get("username"), settings.get("password")
        if username is None or password is None:
            if username != password:
                raise Misconfigured(
                    "httpreq: username and password go together", hint="give both, or neither of them"
                )
            return cls(settings["endpoint"], raw=settings["mode"] == RAW)
        return cls(settings["endpoint"], login=(username, password), raw=settings["mode"] == RAW)

    async def add(self, name: str, value: str) -> None:
        """POST /present."""
        await self._post("/present", name, value, f"{name}: no value could be added")

    async def remove(self, name: str, value: str) -> None:
        """POST /cleanup."""
        await self._post("/cleanup", name, value, f"{name}: a value could not be removed")

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def _post(self, path: str, name: str, value: str, what: str) -> None:
        body = {"fqdn": f"{name}.", "value": value}
        if self.hashes:
            body = {"domain": challenged(name, what), "token": token_of(value, what), "keyAuth": value}
        answer = await self._api.ask("POST", path, what, json_body=body)
        if not answer.ok:
            raise self._api.refused(what, answer, hint="look at the webhook's log, and its user's rights")
