"""``/v1/issuers``: the CAs that secrets can name. They are configured, not called into being."""

from http import HTTPStatus

from pydantic import BaseModel

from sds_server.admin.routes import Answer, Call, Route
from sds_server.model import Scope


class Issuer(BaseModel):
    """An ACME directory that secrets can name."""

    name: str
    directory: str


class Issuers(BaseModel):
    """The issuers that this replica's configuration declares."""

    items: list[Issuer]


async def list_issuers(call: Call) -> Answer:
    """Return those of this replica's configuration."""
    issuers = sorted(call.services.issuers.items())
    return Answer(Issuers(items=[Issuer(name=name, directory=url) for name, url in issuers]))


ROUTES = (
    Route(
        method="GET",
        path="/v1/issuers",
        handler=list_issuers,
        summary="List the issuers that secrets can name",
        scope=Scope.READ,
        answers={HTTPStatus.OK: Issuers},
    ),
)
