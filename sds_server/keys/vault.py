"""A KEK in the transit engine of Vault or OpenBao, over its HTTP API.

The key must be derived: only then is the ``context`` bound to what it encrypts. A key that is not derived
takes a context and ignores it, so that it is asked for once, and refused.
"""

import asyncio
import base64
import binascii
import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp

from acme_engine.hidden import Hidden
from sds_server.clock import Clock, SystemClock
from sds_server.errors import CustodyError, Unavailable
from sds_server.keys.kms import WrappedDek, canonical
from sds_server.keys.vault_token import DENIED, Denied, Login, Tokens

ATTEMPT_S: Final = 2.0
"""For one exchange; with the pause two of them fit into the Sealer's five seconds."""

ATTEMPTS: Final = 2
PAUSE_S: Final = 0.2
ANSWER_BYTES_MAX: Final = 64 * 1024
SAID_MAX: Final = 300

AGAIN: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.PRECONDITION_FAILED,  # a standby that has not seen our token yet
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.TEMPORARY_REDIRECT,  # a standby that does not forward
        472,
        473,  # standbys, as /sys/health calls them
    }
)
"""Besides 5xx: what asking again may help against."""

Answer = tuple[int, dict[str, Any]]


class VaultKms:
    """Wraps by ``encrypt``, rewraps inside the engine by ``rewrap``.

    Timeouts: 2 s an exchange, two tries. The token is renewed before it ends, and had anew when it is
    refused.
    """

    insecure = False

    def __init__(
        self,
        *,
        address: str,
        key: str,
        login: Login,
        mount: str = "transit",
        namespace: str | None = None,
        ca_file: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``address`` is ``https://host:port``. Nothing is asked before the first operation."""
        self.kek_uri = f"vault:{f'{namespace}/' if namespace else ''}{mount}/{key}"
        self._address, self._mount, self._key = address, mount, key
        self._headers = {"X-Vault-Request": "true"} | ({"X-Vault-Namespace": namespace} if namespace else {})
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None
        self._tokens = Tokens(login, self._ask, clock or SystemClock())
        self._derived = False

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes."""
        return self._wrapped(await self._do("encrypt", context, plaintext=_text(dek)))

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`."""
        answer = await self._do("decrypt", context, ciphertext=_ciphertext(wrapped, kek_version))
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise self._unreadable("decrypt") from None  # no cause: it would quote the plaintext

    async def rewrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        """Have the engine wrap the same DEK anew: it does not leave it."""
        answer = await self._do("rewrap", context, ciphertext=_ciphertext(wrapped, kek_version))
        return self._wrapped(answer)

    async def close(self) -> None:
        """End the renewal of the token, and the connections."""
        await self._tokens.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _do(self, operation: str, context: Mapping[str, str], **body: str) -> Mapping[str, Any]:
        if not self._derived:
            await self._check_derived()
        path = f"{self._mount}/{operation}/{self._key}"
        return await self._granted("POST", path, {"context": _text(canonical(context)), **body})

    async def _check_derived(self) -> None:
        facts = await self._granted("GET", f"{self._mount}/keys/{self._key}", None)
        if facts.get("derived") is not True:
            raise CustodyError(
                f"kek: {self.kek_uri} is no derived key: it would open what belongs to another row",
                hint=f"make one: `vault write -f {self._mount}/keys/NAME derived=true`",
            )
        self._derived = True

    async def _granted(self, method: str, path: str, body: Mapping[str, str] | None) -> Mapping[str, Any]:
        """Ask as who we are; where the token is refused, once more by another one."""
        token = await self._tokens.get()
        status, answer = await self._ask(method, path, body, token)
        if status == DENIED and (another := await self._tokens.after(token)) is not None:
            status, answer = await self._ask(method, path, body, another)
        if status == HTTPStatus.OK:
            return dict(answer.get("data") or {})
        said = _said(answer)
        if status == DENIED:
            raise Denied(f"kek: {self.kek_uri}: {method} {path} is denied: {said}")
        if status == HTTPStatus.NOT_FOUND:
            raise CustodyError(
                f"kek: {self.kek_uri}: there is nothing at {path}: {said}",
                hint="correct kms.key, kms.mount and kms.namespace, or make the key",
            )
        raise CustodyError(f"kek: {self.kek_uri} refuses {path.split('/')[-2]}: {said}")

    async def _ask(
        self, method: str, path: str, body: Mapping[str, str] | None, token: Hidden[str] | None
    ) -> Answer:
        """Return status and JSON of an answer that is the engine's own.

        Raises:
            Unavailable: none came.
        """
        last = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S)
            try:
                status, answer = await self._once(method, path, body, token)
            except (aiohttp.ClientError, TimeoutError, OSError) as e:
                last = str(e) or type(e).__name__
                continue
            if status not in AGAIN and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return status, answer
            last = f"status {status}: {_said(answer)}"
        raise Unavailable(
            f"{self.kek_uri}: {self._address} does not answer: {last}",
            hint="start it, or unseal it; everything goes on by itself",
        )

    async def _once(
        self, method: str, path: str, body: Mapping[str, str] | None, token: Hidden[str] | None
    ) -> Answer:
        headers = self._headers | ({"X-Vault-Token": token.reveal()} if token else {})
        async with (
            asyncio.timeout(ATTEMPT_S),
            self._open().request(
                method, f"{self._address}/v1/{path}", json=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            raw = b""
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > ANSWER_BYTES_MAX:
                    raise aiohttp.ClientPayloadError(f"more than {ANSWER_BYTES_MAX:,} bytes")
            try:
                answer = json.loads(raw) if raw else {}
            except ValueError:
                answer = {}
            return response.status, answer if isinstance(answer, dict) else {}

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = ssl.create_default_context(cafile=self._ca_file)
            # No proxy of the environment, and no cookies: every answer is to one question.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session

    def _wrapped(self, answer: Mapping[str, Any]) -> WrappedDek:
        """Read ``vault:v<version>:<base64>``; the version is kept beside it, and bound by the engine."""
        try:
            _, version, text = answer["ciphertext"].split(":")
            return WrappedDek(base64.b64decode(text, validate=True), int(version.removeprefix("v")))
        except (KeyError, AttributeError, ValueError):
            raise self._unreadable("encrypt") from None

    def _unreadable(self, operation: str) -> Unavailable:
        return Unavailable(f"{self.kek_uri}: the answer to {operation} cannot be read", hint="is it Vault?")


def _ciphertext(wrapped: bytes, kek_version: int) -> str:
    return f"vault:v{kek_version}:{_text(wrapped)}"


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _said(answer: Mapping[str, Any]) -> str:
    errors = answer.get("errors")
    words = "; ".join(map(str, errors)) if isinstance(errors, list) and errors else "it does not say why"
    return " ".join(words.split())[:SAID_MAX]
