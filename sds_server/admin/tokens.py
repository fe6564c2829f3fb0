"""``/v1/tokens``: bearer tokens of this API; and ``/v1/whoami``."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated

from pydantic import Field

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.config_values import Duration
from sds_server.inventory import api_tokens
from sds_server.model import Scope


class PostToken(Shape):
    """A token to be made. ``ttl`` such as ``90d``; null: it does not end by itself."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    ttl: Annotated[Duration | None, Field(json_schema_extra={"default": "90d"})] = timedelta(days=90)


async def list_tokens(call: Call) -> Answer:
    """Return a page, oldest first, revoked ones included."""
    query = call.query(pages.Page)
    (after,) = pages.after(query.cursor, 0)
    found = await api_tokens.page(call.services.database, after=pages.bounded(after), limit=query.limit)
    return Answer(
        shapes.Tokens(
            items=[shapes.Token.model_validate(token) for token in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.id]),
        )
    )


async def create_token(call: Call) -> Answer:
    """Make one; its text is in this answer and nowhere else."""
    wanted = call.body(PostToken)
    token, text = await api_tokens.create(
        call.services.database,
        wanted.name,
        scopes=set(wanted.scopes),
        lasts=wanted.ttl,
        actor=call.caller.actor,
    )
    told = shapes.Token.model_validate(token)
    return Answer(shapes.NewToken(**told.model_dump(), token=text), status=HTTPStatus.CREATED)


async def revoke_token(call: Call) -> Answer:
    """Make one worthless."""
    token = pages.number(call.path["id"], "token")
    await api_tokens.revoke(call.services.database, token, actor=call.caller.actor)
    return Answer(status=HTTPStatus.NO_CONTENT)


async def whoami(call: Call) -> Answer:
    """Say who the caller is to certvoy."""
    caller = call.caller
    return Answer(shapes.Whoami(actor=caller.actor, scopes=sorted(caller.scopes), identity=caller.identity))


ROUTES = (
    Route(
        method="GET",
        path="/v1/tokens",
        handler=list_tokens,
        summary="List tokens",
        scope=Scope.ADMIN,
        query=pages.Page,
        answers={HTTPStatus.OK: shapes.Tokens},
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        handler=create_token,
        summary="Make a token; its text is said once",
        scope=Scope.ADMIN,
        body=PostToken,
        answers={HTTPStatus.CREATED: shapes.NewToken},
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{id}",
        handler=revoke_token,
        summary="Revoke a token",
        scope=Scope.ADMIN,
        answers={HTTPStatus.NO_CONTENT: None},
    ),
    Route(
        method="GET",
        path="/v1/whoami",
        handler=whoami,
        summary="Who the caller is to certvoy",
        scope=Scope.READ,
        peer=True,
        answers={HTTPStatus.OK: shapes.Whoami},
    ),
)
