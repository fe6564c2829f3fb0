"""``/v1/issuers``: the CAs that secrets can name. They are configured, not called into being."""

from http import HTTPStatus

from sds_server.admin import shapes
from sds_server.admin.routes import Answer, Call, Route
from sds_server.model import Scope


async def list_issuers(call: Call) -> Answer:
    """Return those of this replica's configuration."""
    issuers = sorted(call.services.issuers.items())
    return Answer(shapes.Issuers(items=[shapes.Issuer(name=name, directory=url) for name, url in issuers]))


ROUTES = (
    Route(
        method="GET",
        path="/v1/issuers",
        handler=list_issuers,
        summary="List the issuers that secrets can name",
        scope=Scope.READ,
        answers={HTTPStatus.OK: shapes.Issuers},
    ),
)
