"""``/v1/targets``: whatever serves secrets, registered or seen."""

from http import HTTPStatus
from typing import Annotated, Final

from pydantic import Field

from sds_server.admin import pages, target_shapes
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.config.values import IdentityName, NameOfSecret
from sds_server.inventory import targets
from sds_server.model import Scope, TargetKind
from sds_server.targets.probe import split

NODE_ID_MAX: Final = 512

NodeId = Annotated[str, Field(min_length=1, max_length=NODE_ID_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")]


class PutTarget(Shape):
    """A target as it shall be; what is left out stays as it is known.

    ``probe`` is ``host:port`` of its TLS listener, ``proxy_protocol`` whether that wants the PROXY protocol
    before TLS, ``http3`` whether HTTP/3 is served there as well, and proved over QUIC; ``admin`` is that of
    its Envoy's admin interface, which is asked where there is no ``probe``; ``push`` is ``https://host:port``
    at which its agent takes bundles, and "" takes that away; ``kind`` of a new one is envoy, or, pushed to,
    files; ``secrets`` count it in their live set, seen or not.
    """

    probe: Annotated[str, Field(max_length=300)] | None = None
    proxy_protocol: bool | None = None
    http3: bool | None = None
    admin: Annotated[str, Field(max_length=300)] | None = None
    push: Annotated[str, Field(max_length=300)] | None = None
    kind: TargetKind | None = None
    identity: IdentityName | None = None
    node_id: NodeId | None = None
    secrets: Annotated[tuple[NameOfSecret, ...], Field(max_length=1000)] = ()


async def list_targets(call: Call) -> Answer:
    """Return a page, by name."""
    query = call.query(pages.Page)
    (after,) = pages.after(query.cursor, "")
    found = await targets.page(call.services.database, after=str(after), limit=query.limit)
    return Answer(
        target_shapes.Targets(
            items=[target_shapes.Target.of(listed) for listed in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.target.name]),
        )
    )


async def get_target(call: Call) -> Answer:
    """Return one with what it has."""
    return Answer(target_shapes.Target.of(await targets.get(call.services.database, call.path["name"])))


async def put_target(call: Call) -> Answer:
    """Register it, or change what is known of it."""
    wanted = call.body(PutTarget)
    if wanted.probe is not None:
        split(wanted.probe)
    if wanted.admin is not None:
        split(wanted.admin, what="admin address")
    push = str(call.services.agents.check(wanted.push)) if wanted.push else wanted.push
    await targets.register(
        call.services.database,
        call.path["name"],
        probe=wanted.probe,
        admin=wanted.admin,
        push=push,
        proxy_protocol=wanted.proxy_protocol,
        http3=wanted.http3,
        reserved=call.services.reserved,
        identity=wanted.identity,
        node_id=wanted.node_id,
        serves=wanted.secrets,
        kind=wanted.kind,
        actor=call.caller.actor,
    )
    return await get_target(call)


async def delete_target(call: Call) -> Answer:
    """Forget it; one that still subscribes is seen again."""
    await targets.remove(call.services.database, call.path["name"], actor=call.caller.actor)
    return Answer(status=HTTPStatus.NO_CONTENT)


ROUTES = (
    Route(
        method="GET",
        path="/v1/targets",
        handler=list_targets,
        summary="List targets, by name, with what each has",
        scope=Scope.READ,
        query=pages.Page,
        answers={HTTPStatus.OK: target_shapes.Targets},
    ),
    Route(
        method="GET",
        path="/v1/targets/{name}",
        handler=get_target,
        summary="Get a target with what it has",
        scope=Scope.READ,
        answers={HTTPStatus.OK: target_shapes.Target},
    ),
    Route(
        method="PUT",
        path="/v1/targets/{name}",
        handler=put_target,
        summary="Register a target, or change where it is probed",
        scope=Scope.ADMIN,
        body=PutTarget,
        answers={HTTPStatus.OK: target_shapes.Target},
    ),
    Route(
        method="DELETE",
        path="/v1/targets/{name}",
        handler=delete_target,
        summary="Forget a target; one that still subscribes is seen again",
        scope=Scope.ADMIN,
        answers={HTTPStatus.NO_CONTENT: None},
    ),
)
