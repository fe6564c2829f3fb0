"""The audit, read: what happened, newest first."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sds_server.inventory.database import Database, Row

OF_COLUMNS = ("action", "actor", "subject", "cert_id")
"""What an entry's payload repeats of its row."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact: ``actor`` did ``action`` to ``subject``."""

    id: int
    at: datetime
    action: str
    actor: str
    subject: str
    cert_id: UUID | None
    detail: dict[str, Any]


async def page(
    database: Database,
    *,
    before: int,
    limit: int,
    subject: str | None = None,
    action: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
) -> Sequence[Entry]:
    """Return entries, newest first, those before ``before``."""
    async with database.transaction() as tx:
        return [_entry(row) for row in await tx.rows("audit", subject, action, actor, since, before, limit)]


def detail(payload: str) -> dict[str, Any]:
    """Return what an entry says besides its columns."""
    return {key: value for key, value in json.loads(payload).items() if key not in OF_COLUMNS}


def _entry(row: Row) -> Entry:
    return Entry(
        id=row["id"],
        at=row["timestamp"],
        action=row["action"],
        actor=row["actor"],
        subject=row["subject"],
        cert_id=row["cert_id"],
        detail=detail(row["payload"]),
    )
