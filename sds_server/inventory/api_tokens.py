"""Bearer tokens of the admin API: the database holds their SHA-256 only, as 256 random bits need no salt."""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from sds_server.errors import Conflict, NotFound
from sds_server.inventory import audit
from sds_server.inventory.database import Database, Row
from sds_server.model import Scope

PREFIX: Final = "certvoy_"
"""So that those who scan repositories for leaked tokens know one."""

_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token."""

    id: int
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


async def create(
    database: Database, name: str, *, scopes: Collection[Scope], lasts: timedelta | None, actor: str
) -> tuple[Token, str]:
    """Make a token, and return it with its text, which is nowhere else.

    Raises:
        Conflict: there is one of that name, not revoked yet.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    try:
        async with database.transaction() as tx:
            row = await tx.row("insert_api_token", name, _digest(text), sorted(scopes), actor, lasts)
            assert row is not None  # noqa: S101 - INSERT ... RETURNING
            token = _token(row)
            detail = {"id": token.id, "scopes": token.scopes, "expires_at": token.expires_at}
            await audit.append(tx, action="token.created", actor=actor, subject=name, detail=detail)
    except asyncpg.UniqueViolationError as e:
        raise Conflict(
            f"token {name}: there is one of that name",
            hint=f"`certvoy token revoke {name}`, or take another name",
        ) from e
    return token, text


async def find(database: Database, text: str) -> Token | None:
    """Return the token that this is the text of; None: unknown, revoked, or over."""
    if not _TOKEN.fullmatch(text):
        return None  # nobody makes us ask the database by guessing
    async with database.transaction() as tx:
        row = await tx.row("usable_api_token", _digest(text))
        if row is not None:
            await tx.rows("use_api_token", row["id"])
    return None if row is None else _token(row)


async def page(database: Database, *, after: int, limit: int) -> Sequence[Token]:
    """Return tokens in the order of their making, revoked ones included."""
    async with database.transaction() as tx:
        return [_token(row) for row in await tx.rows("api_tokens", after, limit)]


async def revoke(database: Database, token: int, *, actor: str) -> None:
    """Make a token worthless from the next request on.

    Raises:
        NotFound: there is none, or it is revoked already.
    """
    async with database.transaction() as tx:
        name = await tx.value("revoke_api_token", token)
        if name is None:
            raise NotFound(
                f"token {token}: there is none that could be revoked", hint="`certvoy token ls` lists them"
            )
        await audit.append(tx, action="token.revoked", actor=actor, subject=name, detail={"id": token})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _token(row: Row) -> Token:
    return Token(
        id=row["id"],
        name=row["name"],
        scopes=tuple(map(Scope, row["scopes"])),
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
