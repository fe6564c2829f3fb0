"""Secrets: read and locked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sds_server.errors import NotFound
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import (
    UPLOAD,
    CertificateStatus,
    Freeze,
    KeyHolder,
    KeyType,
    Kind,
    Proof,
    Secret,
    SecretName,
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A Secret with what it is served with (None: nothing is issued) and at how many Targets."""

    secret: Secret
    status: CertificateStatus | None
    generation: int | None
    not_after: datetime | None
    renew_at: datetime | None
    targets: int
    proved: int
    accepted: int
    last_error: dict[str, Any] | None
    frozen: Freeze | None
    on_demand: str | None
    """The rule by which it came of being asked for; None: it did not."""


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


async def page(
    database: Database, *, after: str, limit: int, issuer: str | None = None, domain: str | None = None
) -> Sequence[Listed]:
    """Return Secrets by name, behind ``after``; ``domain`` is one of theirs."""
    async with database.transaction() as tx:
        return [_listed(row) for row in await tx.rows("secrets_page", after, issuer, domain, limit)]


async def matching(
    database: Database, *, prefixes: Sequence[str], suffixes: Sequence[str], limit: int
) -> Sequence[str]:
    """Return the names of certificates that begin or end so, by name."""
    async with database.transaction() as tx:
        return [
            row["name"] for row in await tx.rows("matching_secrets", list(prefixes), list(suffixes), limit)
        ]


async def undeclared_issuers(database: Database, declared: Sequence[str]) -> Mapping[str, int]:
    """Return how many Secrets want each CA that is not ``declared``."""
    async with database.transaction() as tx:
        rows = await tx.rows("undeclared_issuers", [*declared, UPLOAD])
        return {row["issuer"]: row["secrets"] for row in rows}


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
    found = await lock_if_there(tx, name)
    if found is None:
        raise NotFound(f"secret {name}: there is none of that name")
    return found


async def lock_if_there(tx: Transaction, name: str) -> Secret | None:
    """As `lock`, for who was at it without a lock: None, it was removed meanwhile."""
    row = await tx.row("lock_secret", name)
    return None if row is None else from_row(row)


def from_row(row: Row) -> Secret:
    """Read a row of the secret table."""
    return Secret(
        name=SecretName(row["name"]),
        kind=Kind(row["kind"]),
        domains=tuple(row["domains"]),
        issuer=row["issuer"] or "",
        key_type=None if row["key_type"] is None else KeyType(row["key_type"]),
        proof=Proof.parse(row["proof"]),
        key_holder=KeyHolder(row["key_holder"]),
        key_file=row["key_file"],
        fallback=tuple(row["fallback"]),
    )


def freeze_of(row: Row) -> Freeze | None:
    """Read how a row of the secret table says that it is held; None: it is not."""
    if row["frozen_at"] is None:
        return None
    return Freeze(row["frozen_at"], row["frozen_by"], row["frozen_reason"])


def _listed(row: Row) -> Listed:
    return Listed(
        secret=from_row(row),
        status=None if row["status"] is None else CertificateStatus(row["status"]),
        generation=row["generation"],
        not_after=row["not_after"],
        renew_at=row["renew_at"],
        targets=row["targets"],
        proved=row["proved"],
        accepted=row["accepted"],
        last_error=row["last_error"],
        frozen=freeze_of(row),
        on_demand=row["on_demand"],
    )
