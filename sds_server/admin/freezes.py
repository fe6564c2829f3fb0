"""``/v1/secrets/{name}/freeze`` and ``rollback``: an operator holds a secret as it is, or takes it back."""

from http import HTTPStatus
from typing import Annotated, Final

from pydantic import Field

from sds_server.admin import rotations, secret_shapes, secrets, shapes
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.inventory import freezes, payload_roll_outs, roll_outs
from sds_server.inventory import secrets as stored_secrets
from sds_server.model import Kind, Scope

REASON_MAX: Final = 500
"""Shown in lists and in the audit: a sentence, not a page."""


class PutFreeze(Shape):
    """Why the secret is held: whoever finds it so reads this."""

    reason: Annotated[
        str, Field(min_length=1, max_length=REASON_MAX, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")
    ]


async def freeze(call: Call) -> Answer:
    """Hold it as it is; one that is held already stays with its first reason."""
    name = call.path["name"]
    held = await freezes.freeze(
        call.services.database, name, reason=call.body(PutFreeze).reason, actor=call.caller.actor
    )
    return await secrets.described(call.services, name, status=HTTPStatus.CREATED if held else HTTPStatus.OK)


async def resume(call: Call) -> Answer:
    """Let it go on."""
    await freezes.resume(call.services.database, call.path["name"], actor=call.caller.actor)
    return Answer(status=HTTPStatus.NO_CONTENT)


async def roll_back(call: Call) -> Answer:
    """Take back what is being rolled out: the rotation tries again after a pause, no payload ever does."""
    services, name = call.services, call.path["name"]
    if (await stored_secrets.get(services.database, name)).kind is not Kind.TLS_CERTIFICATE:
        await payload_roll_outs.roll_back(services.database, name, actor=call.caller.actor)
        services.on_rolled_back("operator")
        return await secrets.described(services, name, status=HTTPStatus.ACCEPTED)
    rotation = await roll_outs.roll_back(services.database, name, actor=call.caller.actor)
    services.on_rolled_back("operator")
    return Answer(await rotations.in_steps(services, rotation))


ROUTES = (
    Route(
        method="PUT",
        path="/v1/secrets/{name}/freeze",
        handler=freeze,
        summary="Freeze a secret: nothing is issued for it, offered to more targets, or taken back",
        scope=Scope.ROTATE,
        body=PutFreeze,
        answers={HTTPStatus.OK: secret_shapes.Secret, HTTPStatus.CREATED: secret_shapes.Secret},
    ),
    Route(
        method="DELETE",
        path="/v1/secrets/{name}/freeze",
        handler=resume,
        summary="Resume a frozen secret; where certvoy asked, what was refused goes to all",
        scope=Scope.ROTATE,
        answers={HTTPStatus.NO_CONTENT: None},
    ),
    Route(
        method="POST",
        path="/v1/secrets/{name}/rollback",
        handler=roll_back,
        summary="Take back what is rolled out: what was before is current; 202: it is no certificate",
        scope=Scope.ROTATE,
        answers={HTTPStatus.OK: shapes.RotationInSteps, HTTPStatus.ACCEPTED: secret_shapes.Secret},
    ),
)
