"""``/metrics``: for Prometheus, on the listener of health without authentication, here with scope read."""

import asyncio
from http import HTTPStatus

from sds_server.admin.routes import Answer, Call, Route
from sds_server.metrics import CONTENT_TYPE
from sds_server.model import Scope


async def get_metrics(call: Call) -> Answer:
    """Return the numbers. Written in a thread: with many Secrets it takes longer than a push may wait."""
    return Answer(await asyncio.to_thread(call.services.metrics), content_type=CONTENT_TYPE)


ROUTES = (
    Route(
        method="GET",
        path="/metrics",
        handler=get_metrics,
        summary="Metrics in Prometheus' text format",
        scope=Scope.READ,
        probe=True,
        answers={HTTPStatus.OK: bytes},
        content_type=CONTENT_TYPE,
    ),
)
