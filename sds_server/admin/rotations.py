"""``/v1/rotations``: what is being done, how far it is, and why it is no further."""

from http import HTTPStatus
from typing import Annotated, Final

from aiohttp import hdrs
from pydantic import Field

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route, Shape, Text
from sds_server.admin.services import Services
from sds_server.inventory import progress, rotations
from sds_server.inventory.progress import NEWEST
from sds_server.model import Reason, RotationId, Scope

WAIT_MAX_S: Final = 60
LOOK_EVERY_S: Final = 0.25
"""Between looks of one who waits: four short queries a second, and no connection held between them."""


class PostRotation(Shape):
    """Why there shall be another certificate."""


class RotationsQuery(pages.Page):
    """Which rotations."""

    secret: Text | None = None
    open: bool | None = None


class RotationQuery(Shape):
    """Whether to wait for news.

    ``wait``: answer when there are more than ``steps`` steps, another target is further, or it has ended; at
    latest after so many seconds.
    """

    wait: Annotated[int, Field(ge=0, le=WAIT_MAX_S)] = 0
    steps: Annotated[int, Field(ge=0, le=progress.STEPS_MAX)] = 0


async def rotate(call: Call) -> Answer:
    """Open a rotation, or hasten the one that waits: repeating it orders nothing twice."""
    rotation = await rotations.open_for(
        call.services.database, call.path["name"], reason=Reason.OPERATOR, actor=call.caller.actor
    )
    return Answer(
        await in_steps(call.services, rotation),
        status=HTTPStatus.ACCEPTED,
        headers={hdrs.LOCATION: f"/v1/rotations/{rotation}"},
    )


async def list_rotations(call: Call) -> Answer:
    """Return a page, newest first."""
    query = call.query(RotationsQuery)
    (before,) = pages.after(query.cursor, NEWEST)
    found = await progress.page(
        call.services.database,
        before=RotationId(pages.bounded(before)),
        limit=query.limit,
        secret=query.secret,
        still_open=query.open,
    )
    return Answer(
        shapes.Rotations(
            items=[shapes.Rotation.of(rotation) for rotation in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.id]),
        )
    )


async def get_rotation(call: Call) -> Answer:
    """Return one in steps, at once or when there is news."""
    query = call.query(RotationQuery)
    rotation = RotationId(pages.number(call.path["id"], "rotation"))
    clock = call.services.clock
    until = clock.monotonic() + query.wait
    seen = await in_steps(call.services, rotation)
    first = seen.reached
    while seen.completed_at is None and len(seen.steps) <= query.steps and clock.monotonic() < until:
        await clock.sleep(LOOK_EVERY_S)
        seen = await in_steps(call.services, rotation)
        if seen.reached != first:
            break
    return Answer(seen)


async def in_steps(services: Services, rotation: RotationId) -> shapes.RotationInSteps:
    """Return a rotation with its steps and how far its targets are."""
    found, steps, reached = await progress.get(services.database, rotation)
    return shapes.RotationInSteps(
        **shapes.Rotation.of(found).model_dump(),
        steps=[shapes.Step.model_validate(step) for step in steps],
        reached=shapes.Reached.model_validate(reached),
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/secrets/{name}/rotations",
        handler=rotate,
        summary="Give a secret its next certificate now; repeating it hastens the same rotation",
        scope=Scope.ROTATE,
        body=PostRotation,
        answers={HTTPStatus.ACCEPTED: shapes.RotationInSteps},
    ),
    Route(
        method="GET",
        path="/v1/rotations",
        handler=list_rotations,
        summary="List rotations, newest first",
        scope=Scope.READ,
        query=RotationsQuery,
        answers={HTTPStatus.OK: shapes.Rotations},
    ),
    Route(
        method="GET",
        path="/v1/rotations/{id}",
        handler=get_rotation,
        summary="Get a rotation in steps, or wait for its next one",
        scope=Scope.READ,
        query=RotationQuery,
        answers={HTTPStatus.OK: shapes.RotationInSteps},
    ),
)
