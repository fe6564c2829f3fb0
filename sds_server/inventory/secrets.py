"""Secrets: read and locked."""

from collections.abc import Sequence
from datetime import datetime

from sds_server.errors import NotFound
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import KeyType, Kind, Secret, SecretName


async def get(database: Database, name: str) -> Secret:
    """Return the Secret.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        row = await tx.row("secret", name)
    if row is None:
        raise NotFound(f"secret {name}: there is none of that name")
    return from_row(row)


async def every(database: Database) -> Sequence[Secret]:
    """Return all Secrets, by name."""
    async with database.transaction() as tx:
        return [from_row(row) for row in await tx.rows("secrets")]


async def page(
    database: Database, *, after: str, limit: int, issuer: str | None = None, domain: str | None = None
) -> Sequence[Secret]:
    """Return Secrets by name, behind ``after``; ``domain`` is one of theirs."""
    async with database.transaction() as tx:
        return [from_row(row) for row in await tx.rows("secrets_page", after, issuer, domain, limit)]


async def created_at(database: Database, name: str) -> datetime:
    """Return when the Secret was declared first.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        at: datetime | None = await tx.value("secret_created", name)
    if at is None:
        raise NotFound(f"secret {name}: there is none of that name")
    return at


async def lock(tx: Transaction, name: str) -> Secret:
    """Lock the Secret's row, as every lifecycle transaction does first.

    Raises:
        NotFound: there is none of that name.
    """
    row = await tx.row("lock_secret", name)
    if row is None:
        raise NotFound(f"secret {name}: there is none of that name")
    return from_row(row)


def from_row(row: Row) -> Secret:
    """Read a row of the secret table."""
    return Secret(
        name=SecretName(row["name"]),
        kind=Kind(row["kind"]),
        domains=tuple(row["domains"]),
        issuer=row["issuer"],
        key_type=KeyType(row["key_type"]),
    )
