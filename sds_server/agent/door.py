"""The control plane over HTTPS: the first credential, the next one, bundles, signing requests, reports.

It is known by its own CA, whose digest is in the token, or by roots that the operator names. Every connection
is made anew with the credential that is held then.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from cryptography import x509

from acme_engine.keys import KeyType
from sds_server import authority
from sds_server.agent.credential import Given
from sds_server.agent.files import Held
from sds_server.agent.pair import Bundle
from sds_server.agent.requester import HeldKey, WantedKey
from sds_server.config.values import parts_of
from sds_server.errors import (
    CallerError,
    CertvoyError,
    ConfigError,
    Conflict,
    Forbidden,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from sds_server.model import TargetKind

TIMEOUT_S: Final = 30.0
"""For an answer, beyond what it was asked to wait for."""

ANSWER_MAX: Final = 1024 * 1024
"""A bundle is at most some tens of kilobytes."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a bundle at a target, as `POST /v1/secrets/NAME/deliveries` takes it."""

    secret: str
    state: str
    kind: TargetKind
    target: str | None
    generation: int
    served: str | None = None
    address: str | None = None
    detail: str = ""

    @property
    def body(self) -> Json:
        """Its JSON; what is not known is left out."""
        said = {
            "state": self.state,
            "kind": self.kind,
            "target": self.target,
            "generation": self.generation,
            "served_fingerprint": self.served,
            "address": self.address,
            "detail": self.detail or None,
        }
        return {key: value for key, value in said.items() if value is not None}


class HttpsDoor:
    """One control plane. ``held`` returns the credential to show, if there is one."""

    def __init__(
        self, url: str, *, roots: str | None = None, held: Callable[[], Held | None] = lambda: None
    ) -> None:
        parts = parts_of(url)
        if parts is None or parts.scheme != "https":
            raise ConfigError(f"--server: must be https://host:port, got {url!r}", hint="as in admin.listen")
        self._url, self._roots, self._held = url.rstrip("/"), roots, held

    async def enroll(self, token: str, csr: str) -> Given:
        """Ask for the first credential, of the server that the token is of."""
        wanted = authority.ca_digest_of(token)
        if wanted is None:
            raise ConfigError("this is no enrolment token", hint="`certvoy proxies enroll NAME` prints one")
        roots = self._roots if self._roots is not None else await self._introduced(wanted)
        return await self._given(_trusting(roots), "/v1/enrolments", {"token": token, "csr": csr})

    async def renew(self, held: Held, csr: str) -> Given:
        """Ask for the next one, with the one that is held."""
        return await self._given(_showing(held), "/v1/credentials", {"csr": csr})

    async def bundle(
        self, secret: str, *, target: str | None, kind: TargetKind, etag: str | None, wait_s: int
    ) -> Bundle | None:
        """Fetch what is current once it is not ``etag``'s; None: it is that still, after ``wait_s``."""
        headers = {"Accept": "application/json"}
        if etag is not None:
            headers["If-None-Match"] = etag
        if wait_s > 0:
            headers["Prefer"] = f"wait={wait_s}"
        query = {"kind": kind.value} | ({} if target is None else {"target": target})
        answer = await self._ask(
            "GET", f"/v1/secrets/{quote(secret, safe='')}/bundle", query=query, headers=headers, wait_s=wait_s
        )
        if answer.status == HTTPStatus.NOT_MODIFIED:
            return None
        return Bundle.of(answer.body, etag=answer.etag)

    async def wanted_key(self, secret: str) -> WantedKey:
        """Ask what a signing request must be for, and which one waits."""
        return self._wanted((await self._ask("GET", _csr(secret))).body)

    async def bring(self, secret: str, csr_pem: str, *, target: str | None, lost: int | None) -> WantedKey:
        """Bring one, and return what waits then: nothing, if it had come before and was ordered.

        ``lost``: the generation of a chain whose key is not here.

        Raises:
            Conflict: it is not taken, as another target has the keys.
        """
        said = {"csr": csr_pem, "target": target, "lost": lost}
        body = {key: value for key, value in said.items() if value is not None}
        return self._wanted((await self._ask("PUT", _csr(secret), body=body)).body)

    async def report(self, report: Report) -> None:
        """Say what became of it.

        Raises:
            Conflict: it is not about what is current any more.
        """
        await self._ask("POST", f"/v1/secrets/{quote(report.secret, safe='')}/deliveries", body=report.body)

    def _wanted(self, answer: Json) -> WantedKey:
        try:
            spki = answer["spki_sha256"]
            return WantedKey(
                domains=tuple(str(name) for name in answer["domains"]),
                key_type=KeyType(answer["key_type"]),
                spki_sha256=None if spki is None else bytes.fromhex(str(spki)),
                held=tuple(
                    HeldKey(int(key["generation"]), bytes.fromhex(str(key["spki_sha256"])))
                    for key in answer.get("held", ())
                ),
            )
        except (KeyError, ValueError, TypeError) as e:
            raise Unavailable(
                f"{self._url}: the answer does not say which key is wanted: {e}",
                hint="is the server certvoy's, and not newer than this?",
            ) from e

    async def _given(self, context: ssl.SSLContext, path: str, body: Json) -> Given:
        answer = (await self._ask("POST", path, body=body, context=context)).body
        try:
            return Given(str(answer["certificate"]), (self._roots or "") + str(answer["authorities"]))
        except KeyError as e:
            raise Unavailable(f"{self._url}: the answer has no {e}", hint="is the server certvoy's?") from e

    async def _introduced(self, wanted: str) -> str:
        """Return the CA of this digest: whoever answers, nothing else than its certificate is believed."""
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
        answer = (await self._ask("GET", "/v1/authorities", context=nobody)).body
        try:
            offered = x509.load_pem_x509_certificates(str(answer["authorities"]).encode())
        except (KeyError, ValueError):
            offered = []
        known = [ca for ca in offered if authority.digest(ca) == wanted]
        if not known:
            raise ConfigError(
                f"{self._url} does not show the CA that the token is of: is this another server?",
                hint="check --server, and make a token there: `certvoy proxies enroll NAME`",
            )
        return authority.pem(known)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Json | None = None,
        context: ssl.SSLContext | None = None,
        wait_s: int = 0,
    ) -> "_Answer":
        if context is None:
            held = self._held()
            if held is None:
                raise Unavailable("there is no credential yet", hint="the agent enrols first: see its log")
            context = _showing(held)
        try:
            async with (
                asyncio.timeout(wait_s + TIMEOUT_S),
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.request(
                    method, self._url + path, params=query, headers=headers, json=body, allow_redirects=False
                ) as response,
            ):
                raw = await _bounded(response)
                status, etag = response.status, response.headers.get("ETag", "")
        except (aiohttp.ClientError, OSError) as e:  # a timeout is one
            raise Unavailable(
                f"{self._url} does not answer: {_said(e)}",
                hint="is it there, the port that of `admin.listen`, and its certificate for that name?",
            ) from e
        if status >= HTTPStatus.MULTIPLE_CHOICES and status != HTTPStatus.NOT_MODIFIED:
            raise _refused(status, _json(raw))
        return _Answer(status, etag, _json(raw))


def _said(error: Exception) -> str:
    """Return what happened; aiohttp says "[None]" of who ends a connection for an error without words."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror is None:
        return "it ended the connection before there was TLS"
    return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    etag: str
    body: Json


def _csr(secret: str) -> str:
    return f"/v1/secrets/{quote(secret, safe='')}/csr"


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for part in response.content.iter_any():
        raw += part
        if len(raw) > ANSWER_MAX:
            raise Unavailable(
                f"the answer is longer than {ANSWER_MAX} bytes", hint="is the server certvoy's?"
            )
    return bytes(raw)


def _json(raw: bytes) -> Json:
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


_REFUSALS: Final[Mapping[int, type[CertvoyError]]] = {
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
}


def _refused(status: int, problem: Json) -> CertvoyError:
    """Read a problem document (RFC 9457); of a server's own trouble it is asked again."""
    kind = _REFUSALS.get(status)
    if kind is None:
        busy = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
        kind = Unavailable if busy else CallerError
    hint = problem.get("hint")
    return kind(
        str(problem.get("detail") or f"the server answered {status}"), hint=str(hint) if hint else None
    )


def _showing(held: Held) -> ssl.SSLContext:
    """Return a context that shows the credential, and trusts what came with it."""
    certificate, key, authorities = held.paths
    try:
        context = _trusting(authorities.read_text())
        context.load_cert_chain(certificate, key)
    except (OSError, UnicodeDecodeError) as e:  # ssl.SSLError is one
        raise Unavailable(f"{held.directory}: the credential cannot be used: {e}", hint="enrol anew") from e
    return context


def _trusting(roots: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=roots)
    except ssl.SSLError as e:
        raise ConfigError(f"the roots to trust cannot be read: {e}", hint="name a PEM file by --ca") from e
