"""``/v1/preflights``: would a CA find what it looks for? Nothing is ordered."""

from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field

from acme_engine.preflight import HTTP_PORT, Verdict
from sds_server.admin.routes import Answer, Call, Route, Shape, Text
from sds_server.model import Scope


class PreflightAsked(Shape):
    """Which name is to be looked at, for which issuer; the only one without."""

    name: Text
    issuer: Text | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = HTTP_PORT
    """Where the CA asks for HTTP-01: 80, but for some CAs of one's own."""


class Finding(BaseModel):
    """What one check saw, and how to mend it where it is not well."""

    check: str
    verdict: Verdict
    seen: str
    fix: str


class Findings(BaseModel):
    """What all checks saw."""

    items: list[Finding]


async def look(call: Call) -> Answer:
    """Look from this replica as the CA will from where it is."""
    asked = call.body(PreflightAsked)
    found = await call.services.preflights.look(asked.name, issuer=asked.issuer, port=asked.port)
    items = [Finding(check=one.check, verdict=one.verdict, seen=one.seen, fix=one.fix) for one in found]
    return Answer(Findings(items=items))


ROUTES = (
    Route(
        method="POST",
        path="/v1/preflights",
        handler=look,
        summary="Look whether a CA would find what it looks for, before anything is ordered",
        scope=Scope.ISSUE,
        body=PreflightAsked,
        answers={HTTPStatus.OK: Findings},
    ),
)
