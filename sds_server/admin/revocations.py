"""``/v1/secrets/{name}/revocations``: what shall not be trusted any more."""

from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field

from sds_server.admin import shapes
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.inventory import progress, revocations
from sds_server.model import RevocationReason, Scope

GENERATION_MAX = 2**31 - 1


class PostRevocation(Shape):
    """Which generation, by default the one that is served, and why.

    ``now``: the CA is asked at once. Else it is asked once the successor of what is served is proved
    everywhere.
    """

    reason: RevocationReason = RevocationReason.SUPERSEDED
    generation: Annotated[int, Field(ge=1, le=GENERATION_MAX)] | None = None
    now: bool = False


class RevocationWanted(BaseModel):
    """What will happen; ``rotation`` brings the successor of what is served, null where none is needed."""

    revocation: shapes.Revocation
    rotation: shapes.Rotation | None


async def revoke(call: Call) -> Answer:
    """Want a certificate revoked; for what is served a rotation begins."""
    wanted, database = call.body(PostRevocation), call.services.database
    found = await revocations.request(
        database,
        call.path["name"],
        generation=wanted.generation,
        reason=wanted.reason,
        at_once=wanted.now,
        actor=call.caller.actor,
    )
    rotation = None if found.rotation is None else (await progress.get(database, found.rotation))[0]
    return Answer(
        RevocationWanted(
            revocation=shapes.Revocation.of(found.revocation),
            rotation=None if rotation is None else shapes.Rotation.of(rotation),
        ),
        status=HTTPStatus.ACCEPTED,
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/secrets/{name}/revocations",
        handler=revoke,
        summary="Revoke a certificate of a secret: once its successor is proved everywhere, or now",
        scope=Scope.REVOKE,
        body=PostRevocation,
        answers={HTTPStatus.ACCEPTED: RevocationWanted},
    ),
)
