"""``/v1/tokens``: bearer tokens of this API; and ``/v1/whoami``."""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.config.values import Duration, IdentityName
from sds_server.errors import CallerError
from sds_server.inventory import api_tokens
from sds_server.model import Identity, Scope


class PostToken(Shape):
    """A token to be made, with ``scopes`` or with an ``identity``.

    ``ttl`` such as ``90d``; null: it does not end by itself, which one with scopes may.
    """

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
    scopes: Annotated[tuple[Scope, ...], Field(max_length=len(Scope))] = ()
    identity: Annotated[
        IdentityName | None, Field(description="who whoever shows it over SDS is; it may nothing here")
    ] = None
    ttl: Annotated[Duration | None, Field(json_schema_extra={"default": "90d"})] = timedelta(days=90)


class Token(shapes.Stated):
    """A bearer token, without its text."""

    id: int
    name: str
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    identity: str | None


class NewToken(Token):
    """A bearer token with its text, which is said once and kept nowhere."""

    token: str


class Tokens(BaseModel):
    """A page of tokens."""

    items: list[Token]
    next_cursor: str | None


class Whoami(BaseModel):
    """Who the caller is to certvoy."""

    actor: str
    scopes: list[Scope]
    identity: str | None


async def list_tokens(call: Call) -> Answer:
    """Return a page, oldest first, revoked ones included."""
    query = call.query(pages.Page)
    (after,) = pages.after(query.cursor, 0)
    found = await api_tokens.page(call.services.database, after=pages.bounded(after), limit=query.limit)
    return Answer(
        Tokens(
            items=[Token.model_validate(token) for token in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.id]),
        )
    )


async def create_token(call: Call) -> Answer:
    """Make one; its text is in this answer and nowhere else."""
    wanted = call.body(PostToken)
    if bool(wanted.scopes) == (wanted.identity is not None):
        raise CallerError("a token has scopes, or an identity", hint="write one of `scopes` and `identity`")
    if wanted.identity is not None:
        _check_identity(wanted.identity, wanted.ttl, call.services.reserved)
    token, text = await api_tokens.create(
        call.services.database,
        wanted.name,
        scopes=set(wanted.scopes),
        identity=wanted.identity,
        lasts=wanted.ttl,
        actor=call.caller.actor,
    )
    told = Token.model_validate(token)
    return Answer(NewToken(**told.model_dump(), token=text), status=HTTPStatus.CREATED)


def _check_identity(identity: Identity, ttl: timedelta | None, reserved: str) -> None:
    """Refuse what would be a credential for ever, or one beside those that proxies enrol for.

    Raises:
        CallerError: it is one.
    """
    if ttl is None:
        raise CallerError("ttl: a token of an identity has an end", hint="write 90d, or less")
    if identity.startswith(reserved):
        raise CallerError(
            f"{identity}: names below {reserved} are for proxies that enrol, which have certificates",
            hint="`certvoy proxies enroll NAME`, or another trust domain",
        )


async def revoke_token(call: Call) -> Answer:
    """Make one worthless."""
    token = pages.number(call.path["id"], "token")
    await api_tokens.revoke(call.services.database, token, actor=call.caller.actor)
    return Answer(status=HTTPStatus.NO_CONTENT)


async def whoami(call: Call) -> Answer:
    """Say who the caller is to certvoy."""
    caller = call.caller
    return Answer(Whoami(actor=caller.actor, scopes=sorted(caller.scopes), identity=caller.identity))


ROUTES = (
    Route(
        method="GET",
        path="/v1/tokens",
        handler=list_tokens,
        summary="List tokens",
        scope=Scope.ADMIN,
        query=pages.Page,
        answers={HTTPStatus.OK: Tokens},
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        handler=create_token,
        summary="Make a token; its text is said once",
        scope=Scope.ADMIN,
        body=PostToken,
        answers={HTTPStatus.CREATED: NewToken},
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
        answers={HTTPStatus.OK: Whoami},
    ),
)
