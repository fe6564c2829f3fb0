"""``/healthz`` and ``/readyz``: whether the process lives, and whether it can serve."""

from http import HTTPStatus

from sds_server.admin import shapes
from sds_server.admin.routes import Answer, Call, Route
from sds_server.admin.services import Health


async def healthz(call: Call) -> Answer:  # noqa: ARG001 - a handler's signature
    """Say that the process answers."""
    return Answer(shapes.Health(status=Health.OK))


async def readyz(call: Call) -> Answer:
    """Say how each part is; 503 only where streams cannot be served, which a dead database does not stop."""
    checks = call.services.checks()
    found = {check.health for check in checks}
    worst = next((health for health in (Health.FAILED, Health.DEGRADED) if health in found), Health.OK)
    return Answer(
        shapes.Health(status=worst, checks=[shapes.HealthCheck.model_validate(check) for check in checks]),
        status=HTTPStatus.SERVICE_UNAVAILABLE if worst is Health.FAILED else HTTPStatus.OK,
    )


ROUTES = (
    Route(
        method="GET",
        path="/healthz",
        handler=healthz,
        summary="Whether the process answers",
        scope=None,
        probe=True,
        answers={HTTPStatus.OK: shapes.Health},
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Whether this replica can serve, and how each of its parts is",
        scope=None,
        probe=True,
        answers={HTTPStatus.OK: shapes.Health, HTTPStatus.SERVICE_UNAVAILABLE: shapes.Health},
    ),
)
