"""``/v1/issuers/{name}/revocations``: all that a CA has issued, replaced and revoked; or a drill of that."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field

from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.config.values import SECRET_NAME_BYTES_MAX
from sds_server.model import RevocationReason, Scope


class PostMassRevocation(Shape):
    """Why, and which batch: the first, or the one behind ``after``.

    ``now``: the CA is asked at once, and not after each successor is proved. ``dry_run``: all is replaced,
    and nothing revoked.
    """

    reason: RevocationReason = RevocationReason.SUPERSEDED
    now: bool = False
    dry_run: bool = False
    after: Annotated[str, Field(max_length=SECRET_NAME_BYTES_MAX)] = ""


class MassRevocation(BaseModel):
    """What one batch has opened. ``since``: when it began; the first one's is what is followed.

    ``after`` is where the next batch begins; null: this was the last. ``passed_over``: changed meanwhile.
    """

    since: datetime
    opened: int
    passed_over: int
    after: str | None


class SinceQuery(Shape):
    """From when on."""

    since: AwareDatetime


class MassProgress(BaseModel):
    """How many certificates are to be replaced, and how far they are.

    ``waiting``: not issued yet; ``rolling_out``: issued and not proved everywhere; ``replaced``: that too.
    ``done_at``: when the last is issued, by the CA's limits and what is taken of them; null: all are.
    """

    total: int
    waiting: int
    rolling_out: int
    replaced: int
    revoked: int
    done_at: datetime | None


async def revoke_all(call: Call) -> Answer:
    """Open the rotations of one batch."""
    wanted = call.body(PostMassRevocation)
    begun = await call.services.mass_revoker.begin(
        call.path["name"],
        reason=wanted.reason,
        at_once=wanted.now,
        drill=wanted.dry_run,
        after=wanted.after,
        actor=call.caller.actor,
    )
    return Answer(
        MassRevocation(
            since=begun.since, opened=begun.opened, passed_over=begun.passed_over, after=begun.after
        ),
        status=HTTPStatus.ACCEPTED,
    )


async def revoked_of_all(call: Call) -> Answer:
    """Say how far it is."""
    outlook = await call.services.mass_revoker.outlook(call.path["name"], since=call.query(SinceQuery).since)
    told = outlook.progress
    return Answer(
        MassProgress(
            total=told.total,
            waiting=told.waiting,
            rolling_out=told.rolling_out,
            replaced=told.replaced,
            revoked=told.revoked,
            done_at=outlook.done_at,
        )
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/issuers/{name}/revocations",
        handler=revoke_all,
        summary="Replace and revoke a batch of all that the issuer has issued; or replace only, as a drill",
        scope=Scope.REVOKE,
        body=PostMassRevocation,
        answers={HTTPStatus.ACCEPTED: MassRevocation},
    ),
    Route(
        method="GET",
        path="/v1/issuers/{name}/revocations",
        handler=revoked_of_all,
        summary="Say how far the replacing of all that the issuer has issued is, and when it will be done",
        scope=Scope.READ,
        query=SinceQuery,
        answers={HTTPStatus.OK: MassProgress},
    ),
)
