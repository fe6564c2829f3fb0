"""``/v1/proxies``: Envoys, with what each has of each secret, and those that enrolled."""

from datetime import datetime
from http import HTTPStatus

from pydantic import BaseModel

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route
from sds_server.errors import NotFound
from sds_server.inventory import proxies, targets
from sds_server.model import Scope, TargetKind


class Granted(shapes.Stated):
    """A name that the proxy may see."""

    name: str
    granted_at: datetime
    granted_by: str


class Enrolment(BaseModel):
    """A proxy that was invited; ``credential_until`` null: it has not enrolled yet."""

    identity: str
    created_at: datetime
    created_by: str
    credential_at: datetime | None
    credential_until: datetime | None
    grants: list[Granted]


class Proxy(BaseModel):
    """A proxy: its enrolment, if it has one, and its target, if one of its name was seen or registered."""

    name: str
    enrolment: Enrolment | None
    target: shapes.Target | None


async def list_proxies(call: Call) -> Answer:
    """Return a page, by name."""
    query = call.query(pages.Page)
    (after,) = pages.after(query.cursor, "")
    found = await targets.page(
        call.services.database, after=str(after), limit=query.limit, kind=TargetKind.ENVOY
    )
    return Answer(
        shapes.Targets(
            items=[shapes.Target.of(listed) for listed in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.target.name]),
        )
    )


async def get_proxy(call: Call) -> Answer:
    """Return one that enrolled, was seen, or both."""
    name = call.path["name"]
    enrolled = await proxies.get(call.services.database, name)
    try:
        target = shapes.Target.of(await targets.get(call.services.database, name))
    except NotFound:
        if enrolled is None:
            raise NotFound(f"proxy {name}: there is none of that name", hint="`certvoy proxies`") from None
        target = None
    return Answer(Proxy(name=name, enrolment=_enrolment(enrolled), target=target))


async def remove_proxy(call: Call) -> Answer:
    """Take its grants and its credential away, and end its streams."""
    await proxies.remove(call.services.database, call.path["name"], actor=call.caller.actor)
    return Answer(status=HTTPStatus.NO_CONTENT)


def _enrolment(enrolled: proxies.Enrolled | None) -> Enrolment | None:
    if enrolled is None:
        return None
    return Enrolment(
        identity=enrolled.proxy.identity,
        created_at=enrolled.created_at,
        created_by=enrolled.created_by,
        credential_at=enrolled.credential_at,
        credential_until=enrolled.credential_until,
        grants=[Granted.model_validate(granted) for granted in enrolled.grants],
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/proxies",
        handler=list_proxies,
        summary="List Envoys, by name, with what each has",
        scope=Scope.READ,
        query=pages.Page,
        answers={HTTPStatus.OK: shapes.Targets},
    ),
    Route(
        method="GET",
        path="/v1/proxies/{name}",
        handler=get_proxy,
        summary="A proxy: its enrolment and what it has",
        scope=Scope.READ,
        answers={HTTPStatus.OK: Proxy},
    ),
    Route(
        method="DELETE",
        path="/v1/proxies/{name}",
        handler=remove_proxy,
        summary="Take a proxy's grants and credential away, at once",
        scope=Scope.ENROLL,
        answers={HTTPStatus.NO_CONTENT: None},
    ),
)
