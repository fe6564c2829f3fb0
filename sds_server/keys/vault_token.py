"""The token by which Vault or OpenBao is asked: had, renewed before it ends, had anew when it is refused."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

from acme_engine.hidden import Hidden
from sds_server.clock import Clock
from sds_server.errors import CustodyError, Unavailable

DENIED: Final = HTTPStatus.FORBIDDEN
"""The status of a token that is over as well as of one that may not: `Tokens.after` tells which."""

RENEWED_AFTER: Final = 2 / 3
"""Of its life, or of what is left of it: two more tries before it ends."""

SOONEST_S: Final = 1.0
RETRY_S: Final = 10.0

Ask = Callable[
    [str, str, Mapping[str, str] | None, Hidden[str] | None], Awaitable[tuple[int, dict[str, Any]]]
]


class Denied(CustodyError):
    """Who we are may not do that."""

    hint = "grant the policy of docs/how-to/kms.md to whom certvoy logs in as"


@dataclass(frozen=True, slots=True)
class Token:
    """A token, with the seconds that it lives from now; None: for ever, or nobody knows."""

    value: Hidden[str]
    lives_s: float | None = None
    renewable: bool = False


class Login(Protocol):
    """How a token is had."""

    async def token(self, ask: Ask) -> Token:
        """Get one, as new as can be.

        Raises:
            Unavailable: there is none to be had now; the hint says what to do.
        """


class TokenFile:
    """A token that somebody writes into a file, such as Vault Agent, and writes anew in time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self, ask: Ask) -> Token:
        """Read the file; how long the token lives, the server says."""
        try:
            value = Hidden(self._path.read_text().strip())
        except OSError as e:
            raise Unavailable(f"kms.token_file: {self._path}: {e.strerror}") from e
        status, answer = await ask("GET", "auth/token/lookup-self", None, value)
        data = answer.get("data") or {}
        if status != HTTPStatus.OK:
            return Token(value)  # over, or without the right to look: the next call tells
        return Token(value, float(data.get("ttl") or 0) or None, bool(data.get("renewable")))


class AppRole:
    """A role and its secret id, which may be changed in its file at any time."""

    def __init__(self, role_id: str, secret_id_file: Path, *, mount: str = "approle") -> None:
        self._role_id = role_id
        self._secret_id_file = secret_id_file
        self._mount = mount

    async def token(self, ask: Ask) -> Token:
        """Log in."""
        try:
            secret_id = self._secret_id_file.read_text().strip()
        except OSError as e:
            raise Unavailable(f"kms.secret_id_file: {self._secret_id_file}: {e.strerror}") from e
        body = {"role_id": self._role_id, "secret_id": secret_id}
        status, answer = await ask("POST", f"auth/{self._mount}/login", body, None)
        auth = answer.get("auth") or {}
        if status != HTTPStatus.OK or "client_token" not in auth:
            # Not a CustodyError: what was opened until now may be used on, as while the KMS is away.
            raise Unavailable(
                f"kms: the login by AppRole at {self._mount} is refused (status {status})",
                hint=f"write a secret id that is valid into {self._secret_id_file}",
            )
        return Token(
            Hidden(str(auth["client_token"])),
            float(auth.get("lease_duration") or 0) or None,
            bool(auth.get("renewable")),
        )


class Tokens:
    """The one token that is used now. Belongs to one event loop."""

    def __init__(self, login: Login, ask: Ask, clock: Clock) -> None:
        self._login = login
        self._ask = ask
        self._clock = clock
        self._held: Token | None = None
        self._getting = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    async def get(self) -> Hidden[str]:
        """Return the token, and have one first where there is none.

        Raises:
            Unavailable: there is none to be had.
        """
        async with self._getting:
            return (self._held or await self._have()).value

    async def after(self, refused: Hidden[str]) -> Hidden[str] | None:
        """Return another token than the one that was refused; None: that one is good, and may not.

        Raises:
            Unavailable: it is over, and there is no other one yet.
        """
        async with self._getting:
            if self._held is not None and self._held.value != refused:
                return self._held.value
            status, _ = await self._ask("GET", "auth/token/lookup-self", None, refused)
            if status == HTTPStatus.OK:
                return None
            token = await self._have()
            if token.value == refused:
                self._held = None
                raise Unavailable(
                    "kms: the token is not valid any more, and kms.token_file holds no other one",
                    hint="write a new one into the file; everything goes on by itself",
                )
            return token.value

    async def close(self) -> None:
        """Renew it no more. It is not revoked: other replicas may use the same."""
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None

    async def _have(self) -> Token:
        token = self._held = await self._login.token(self._ask)
        if token.lives_s is not None and (self._keeping is None or self._keeping.done()):
            self._keeping = asyncio.create_task(self._keep(), name="vault-token")
        return token

    async def _keep(self) -> None:
        """Renew it in time, and have another one where it cannot be renewed any further."""
        while (token := self._held) is not None and token.lives_s is not None:
            await self._clock.sleep(max(token.lives_s * RENEWED_AFTER, SOONEST_S))
            async with self._getting:
                if self._held is not token:
                    continue
                try:
                    renewed = await self._renewed(token)
                    if renewed is None:
                        await self._have()
                    else:
                        self._held = renewed
                except Unavailable:
                    # It is asked again, sooner and sooner; the call that is refused says what is wrong.
                    self._held = Token(token.value, max(token.lives_s / 3, RETRY_S), token.renewable)

    async def _renewed(self, token: Token) -> Token | None:
        """Return it with a longer life; None: another one is needed."""
        if not token.renewable:
            return None
        status, answer = await self._ask("POST", "auth/token/renew-self", {}, token.value)
        auth = answer.get("auth") or {}
        lives_s = float(auth.get("lease_duration") or 0)
        # Near its longest life a renewal gives less and less.
        if status != HTTPStatus.OK or lives_s < (token.lives_s or 0) / 2:
            return None
        return Token(token.value, lives_s, bool(auth.get("renewable")))
