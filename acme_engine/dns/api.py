"""One question to a provider's HTTP API: bounded, never redirected, its answer read as JSON."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from acme_engine.dns.provider import scrub
from acme_engine.errors import DnsProviderError
from acme_engine.hidden import Hidden
from acme_engine.transport import parse_retry_after, utc_now

TIMEOUT_S: Final = 20.0
"""For one exchange, its answer's last byte included; the few of one call fit into `CALL_TIMEOUT_S`."""

MAX_BODY: Final = 1024 * 1024

_NOT_NOW: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
"""Besides 5xx: a later try may succeed although nobody changed anything."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, also one that says no; ``document`` is None where it is no JSON."""

    status: int
    document: Any
    text: str
    retry_after: timedelta | None

    @property
    def ok(self) -> bool:
        """It says yes."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class Api:
    """Questions to one API. Connections are kept between them; the first opens one."""

    def __init__(
        self,
        endpoint: str,
        *,
        credentials: Iterable[str],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``endpoint`` without a final slash; ``credentials`` are taken out of whatever the API says."""
        self.endpoint = endpoint.rstrip("/")
        self._credentials = tuple(map(Hidden, credentials))
        self._headers = {name: Hidden(value) for name, value in (headers or {}).items()}
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        json_body: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer, unless it is "not now".

        ``what`` begins the error: which name, and what was not done.

        Raises:
            DnsProviderError: none came in time, or it is a 408, 425, 429 or 5xx; retryable.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._exchange(method, path, json_body, params, headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise DnsProviderError(
                f"{what}: {self.endpoint} does not answer: {self._scrubbed(str(e) or 'in time')}",
                retryable=True,
                hint="check the provider's endpoint, and that it can be reached from here",
            ) from e
        if answer.status in _NOT_NOW or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self.refused(what, answer, retryable=True, hint="it is tried again by itself")
        return answer

    def refused(
        self,
        what: str,
        answer: Answer,
        *,
        words: str | None = None,
        retryable: bool = False,
        hint: str | None = None,
    ) -> DnsProviderError:
        """Return the error for an answer that says no; ``words`` are the API's own, by default its text."""
        said = self._scrubbed(answer.text if words is None else words)
        return DnsProviderError(
            f"{what}: {self.endpoint} says {answer.status}{f': {said}' if said else ''}",
            retryable=retryable,
            hint=hint,
            retry_after=answer.retry_after,
        )

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(
        self,
        method: str,
        path: str,
        json_body: object,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        async with self._open().request(
            method,
            f"{self.endpoint}{path}",
            json=json_body,
            params=params,
            headers=headers,
            # A redirect would carry the credential to whoever the answer names.
            allow_redirects=False,
        ) as response:
            raw = b""
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > MAX_BODY:
                    raise aiohttp.ClientPayloadError(f"with more than {MAX_BODY:,} bytes")
            return Answer(
                response.status,
                _document(raw),
                raw.decode("utf-8", "replace"),
                parse_retry_after(response.headers.get("Retry-After"), now=utc_now()),
            )

    def _scrubbed(self, said: str) -> str:
        return scrub(said, [credential.reveal() for credential in self._credentials])

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Accept": "application/json", "Accept-Encoding": "identity"}
                | {name: value.reveal() for name, value in self._headers.items()},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                # HTTPS_PROXY and NO_PROXY are how many networks reach a public API. Plain HTTP is for this
                # machine alone, and a proxy would read the credential.
                trust_env=self.endpoint.startswith("https:"),
            )
        return self._session


def _document(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def mapping(document: Any) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    return document if isinstance(document, dict) else {}


def mappings(document: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects of an array, or none."""
    return [item for item in document if isinstance(item, dict)] if isinstance(document, list) else []


def quoted(value: str) -> str:
    """Return a value as zone files have it, which APIs take TXT content in."""
    return f'"{value}"'


def parents(name: str) -> list[str]:
    """Return the names of all zones that a name could be in, the closest first; no top-level domain."""
    labels = name.split(".")
    return [".".join(labels[n:]) for n in range(len(labels) - 1)]
