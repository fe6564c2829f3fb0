"""``/v1/audit``: who did what to what, and when."""

from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route, Text
from sds_server.inventory import history
from sds_server.model import Scope


class AuditQuery(pages.Page):
    """Which facts."""

    subject: Text | None = None
    action: Text | None = None
    actor: Text | None = None
    since: AwareDatetime | None = None


class AuditEntry(shapes.Stated):
    """A fact: ``actor`` did ``action`` to ``subject``."""

    id: int
    at: datetime
    action: str
    actor: str
    subject: str
    cert_id: UUID | None
    detail: dict[str, Any]


class AuditEntries(BaseModel):
    """A page of facts, newest first."""

    items: list[AuditEntry]
    next_cursor: str | None


async def list_audit(call: Call) -> Answer:
    """Return a page, newest first."""
    query = call.query(AuditQuery)
    (before,) = pages.after(query.cursor, pages.ID_MAX)
    found = await history.page(
        call.services.database,
        before=pages.bounded(before),
        limit=query.limit,
        subject=query.subject,
        action=query.action,
        actor=query.actor,
        since=query.since,
    )
    return Answer(
        AuditEntries(
            items=[AuditEntry.model_validate(entry) for entry in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.id]),
        )
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/audit",
        handler=list_audit,
        summary="List what was done, newest first",
        scope=Scope.READ,
        query=AuditQuery,
        answers={HTTPStatus.OK: AuditEntries},
    ),
)
