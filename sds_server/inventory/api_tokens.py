"""Bearer tokens, of the admin API or of an identity.

The database holds their SHA-256 only, as 256 random bits need no salt.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

import asyncpg

from sds_server.errors import Conflict, NotFound
from sds_server.inventory import audit, feed
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import Identity, Scope

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
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """A usable token of an identity, known by its SHA-256."""

    id: int
    sha256: bytes
    identity: Identity
    expires_at: datetime


async def create(
    database: Database,
    name: str,
    *,
    scopes: Collection[Scope] = (),
    identity: Identity | None = None,
    lasts: timedelta | None,
    actor: str,
) -> tuple[Token, str]:
    """Make a token, and return it with its text, which is nowhere else.

    With scopes it is one of the admin API. With an identity, and then without scopes and with an end, whoever
    shows it is that identity.

    Raises:
        Conflict: there is one of that name, not revoked yet.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    try:
        async with database.transaction() as tx:
            row = await tx.row("insert_api_token", name, digest(text), sorted(scopes), actor, lasts, identity)
            assert row is not None  # noqa: S101 - INSERT ... RETURNING
            token = _token(row)
            detail: dict[str, Any] = {"id": token.id, "scopes": token.scopes, "expires_at": token.expires_at}
            if identity is not None:
                detail["identity"] = identity
                await feed.tell_rights(tx)
            await audit.append(tx, action="token.created", actor=actor, subject=name, detail=detail)
    except asyncpg.UniqueViolationError as e:
        raise Conflict(
            f"token {name}: there is one of that name",
            hint=f"`certvoy token revoke {name}`, or take another name",
        ) from e
    return token, text


async def find(database: Database, text: str) -> Token | None:
    """Return the token of the admin API that this is the text of; None: unknown, revoked, or over."""
    if not is_token(text):
        return None  # nobody makes us ask the database by guessing
    async with database.transaction() as tx:
        row = await tx.row("usable_api_token", digest(text))
        if row is not None:
            await tx.rows("use_api_token", row["id"])
    return None if row is None else _token(row)


def is_token(text: str) -> bool:
    """Whether a token could have this text."""
    return _TOKEN.fullmatch(text) is not None


async def of_identities(
    tx: Transaction, identities: Sequence[str] | None
) -> Mapping[Identity, tuple[IdentityToken, ...]]:
    """Return the usable tokens of these identities; None: of all."""
    rows = await tx.rows("identity_tokens", identities)
    tokens = [
        IdentityToken(row["id"], row["sha256"], Identity(row["identity"]), row["expires_at"]) for row in rows
    ]
    return {identity: tuple(some) for identity, some in groupby(tokens, key=lambda token: token.identity)}


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
        await feed.tell_rights(tx)


def digest(text: str) -> bytes:
    """Return what is kept of a token's text."""
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
        identity=None if row["identity"] is None else Identity(row["identity"]),
    )
