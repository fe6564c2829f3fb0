"""``/v1/seal``: this replica gives nothing away and opens nothing, until somebody breaks the seal."""

from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field

from sds_server.admin.freezes import REASON_MAX
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.model import Scope


class PutSeal(Shape):
    """Why the replica is sealed: whoever finds it so reads this."""

    reason: Annotated[
        str, Field(min_length=1, max_length=REASON_MAX, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")
    ]


class Seal(BaseModel):
    """Whether the replica that answers is sealed; ``by``, ``at`` and ``reason`` are null if nobody knows."""

    sealed: bool
    by: str | None = None
    at: str | None = None
    reason: str | None = None


async def read_seal(call: Call) -> Answer:
    """Say whether it is."""
    return Answer(_shape(call))


async def put_seal(call: Call) -> Answer:
    """Seal it; one that is sealed already stays with its first reason."""
    await call.services.seal.put(reason=call.body(PutSeal).reason, actor=call.caller.actor)
    return Answer(_shape(call))


async def break_seal(call: Call) -> Answer:
    """Break the seal."""
    await call.services.seal.lift(actor=call.caller.actor)
    return Answer(status=HTTPStatus.NO_CONTENT)


def _shape(call: Call) -> Seal:
    state = call.services.seal.state
    if state is None:
        return Seal(sealed=False)
    return Seal(sealed=True, by=state.by, at=state.at, reason=state.reason)


ROUTES = (
    Route(
        method="GET",
        path="/v1/seal",
        handler=read_seal,
        summary="Say whether this replica is sealed, by whom and why",
        scope=Scope.READ,
        answers={HTTPStatus.OK: Seal},
    ),
    Route(
        method="PUT",
        path="/v1/seal",
        handler=put_seal,
        summary="Seal this replica: it forgets every key that it has opened, and gives nothing away",
        scope=Scope.ADMIN,
        body=PutSeal,
        answers={HTTPStatus.OK: Seal},
    ),
    Route(
        method="DELETE",
        path="/v1/seal",
        handler=break_seal,
        summary="Break the seal: what proxies want is loaded anew",
        scope=Scope.ADMIN,
        answers={HTTPStatus.NO_CONTENT: None},
    ),
)
