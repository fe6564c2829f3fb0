"""``/v1/proxies``: Envoys, with what each has of each secret, and who was invited to be one."""

from datetime import datetime
from http import HTTPStatus

from pydantic import BaseModel

from sds_server import conditions
from sds_server.admin import pages, shapes, target_shapes
from sds_server.admin.routes import Answer, Call, Route
from sds_server.errors import NotFound
from sds_server.inventory import proxies, targets
from sds_server.model import Kind, Scope, TargetKind


class Granted(shapes.Stated):
    """A name that the proxy may see, and on what terms; ``kinds`` null: of every kind."""

    name: str
    kinds: list[Kind] | None
    issue: bool
    max_names: int | None
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


class ListedProxy(BaseModel):
    """A target, or a proxy that was invited, or both in one; ``kind`` null: there is no target yet."""

    name: str
    state: conditions.ProxyState
    reason: str | None
    enrolment: Enrolment | None
    kind: TargetKind | None = None
    identity: str | None = None
    node_id: str | None = None
    probe: str | None = None
    proxy_protocol: bool = False
    http3: bool = False
    admin: str | None = None
    registered: bool = False
    last_seen: datetime | None = None
    deliveries: list[target_shapes.Delivery] = []

    @classmethod
    def of(cls, listed: proxies.Listed) -> "ListedProxy":
        """Say it of a proxy."""
        target, enrolled = listed.target, listed.enrolled
        state, reason = conditions.proxy_state(
            seen=target is not None and target.last_seen is not None,
            invited=enrolled is not None,
            credential_until=None if enrolled is None else enrolled.credential_until,
        )
        known = {} if target is None else dict(target_shapes.Target.of(target))
        return cls(
            **{"name": listed.name, **known}, state=state, reason=reason, enrolment=_enrolment(enrolled)
        )


class ListedProxies(BaseModel):
    """A page of proxies, by name."""

    items: list[ListedProxy]
    next_cursor: str | None


class Proxy(BaseModel):
    """A proxy: its enrolment, if it has one, and its target, if one of its name was seen or registered."""

    name: str
    enrolment: Enrolment | None
    target: target_shapes.Target | None


async def list_proxies(call: Call) -> Answer:
    """Return a page, by name."""
    query = call.query(pages.Page)
    name, alone = pages.after(query.cursor, "", 0)
    found = await proxies.page(call.services.database, after=(str(name), bool(alone)), limit=query.limit)
    return Answer(
        ListedProxies(
            items=[ListedProxy.of(listed) for listed in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.name, int(last.target is None)]),
        )
    )


async def get_proxy(call: Call) -> Answer:
    """Return one that enrolled, was seen, or both."""
    name = call.path["name"]
    enrolled = await proxies.get(call.services.database, name)
    try:
        target = target_shapes.Target.of(await targets.get(call.services.database, name))
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
        summary="List Envoys, by name, with what each has, and who was invited to be one",
        scope=Scope.READ,
        query=pages.Page,
        answers={HTTPStatus.OK: ListedProxies},
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
