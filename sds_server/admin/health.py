"""``/healthz`` and ``/readyz``: whether the process lives, and whether it can serve."""

from http import HTTPStatus

from pydantic import BaseModel

from sds_server.admin import services, shapes
from sds_server.admin.routes import Answer, Call, Route


class HealthCheck(shapes.Stated):
    """One part of the replica."""

    name: str
    health: str
    detail: str


class Health(BaseModel):
    """How the replica is: ``ok``, ``degraded`` (it serves from memory), or ``failed``."""

    status: str
    checks: list[HealthCheck] = []


async def healthz(call: Call) -> Answer:  # noqa: ARG001 - a handler's signature
    """Say that the process answers."""
    return Answer(Health(status=services.Health.OK))


async def readyz(call: Call) -> Answer:
    """Say how each part is; 503 only where streams cannot be served, which a dead database does not stop."""
    checks = call.services.checks()
    found = {check.health for check in checks}
    worst = next(
        (health for health in (services.Health.FAILED, services.Health.DEGRADED) if health in found),
        services.Health.OK,
    )
    return Answer(
        Health(status=worst, checks=[HealthCheck.model_validate(check) for check in checks]),
        status=HTTPStatus.SERVICE_UNAVAILABLE if worst is services.Health.FAILED else HTTPStatus.OK,
    )


ROUTES = (
    Route(
        method="GET",
        path="/healthz",
        handler=healthz,
        summary="Whether the process answers",
        scope=None,
        probe=True,
        answers={HTTPStatus.OK: Health},
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Whether this replica can serve, and how each of its parts is",
        scope=None,
        probe=True,
        answers={HTTPStatus.OK: Health, HTTPStatus.SERVICE_UNAVAILABLE: Health},
    ),
)
