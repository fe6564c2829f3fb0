"""``/v1/proxies``: Envoys, with what each has of each secret."""

from http import HTTPStatus

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route
from sds_server.inventory import targets
from sds_server.model import Scope, TargetKind


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
)
