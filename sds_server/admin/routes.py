"""What a route is, and how a request becomes a call: who asks, may they, what do they say.

The table of all routes is `table.ROUTES`; the OpenAPI document is made of the same table, so that it cannot
say anything else than what is served.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, Field, ValidationError

from sds_server.admin import problem
from sds_server.admin.callers import Caller, Callers
from sds_server.admin.idempotency import HEADER, Idempotency, body_of
from sds_server.admin.problem import Problem
from sds_server.admin.services import Services
from sds_server.errors import (
    CallerError,
    CertvoyError,
    Forbidden,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
)
from sds_server.identity import Holder
from sds_server.log import get
from sds_server.model import Identity, Scope

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_TIMEOUT_S: Final = 10.0
"""A body that trickles in holds a connection no longer."""

RETRY_AFTER_S: Final = 5
SHOWN_PATH: Final = 200

Model = TypeVar("Model", bound=BaseModel)

_log = get("admin")


class Shape(BaseModel):
    """What a request may hold: nothing unknown."""

    model_config = {"extra": "forbid", "frozen": True}


Text = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]
"""Words that PostgreSQL takes."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was understood: who asks, for what, with which words.

    ``path`` holds the decoded parts of the path by name.
    """

    services: Services
    caller: Caller
    path: Mapping[str, str]
    headers: Mapping[str, str]
    _query: BaseModel | None = None
    _body: BaseModel | None = None

    def query(self, shape: type[Model]) -> Model:
        """Return the query in the shape that the route declares."""
        assert isinstance(self._query, shape)  # noqa: S101 - the route's table and its handler disagree
        return self._query

    def body(self, shape: type[Model]) -> Model:
        """Return the body in the shape that the route declares."""
        assert isinstance(self._body, shape)  # noqa: S101 - the route's table and its handler disagree
        return self._body

    @property
    def identity(self) -> Identity:
        """Whose client certificate it is.

        Raises:
            Unauthenticated: there is none.
        """
        return self.holder.identity

    @property
    def holder(self) -> Holder:
        """Who holds the client certificate.

        Raises:
            Unauthenticated: there is none.
        """
        if self.caller.holder is None:
            raise Unauthenticated(
                "a client certificate is required", hint="connect with the certificate that has the grant"
            )
        return self.caller.holder

    def check_admitted(self) -> None:
        """Ask again, after a wait, whether the holder of the client certificate is still believed.

        Raises:
            Unauthenticated: its enrolment has ended; another of the same name is not its.
        """
        if not self.services.admits(self.holder):
            raise Unauthenticated(
                f"{self.identity} is not enrolled any more",
                hint="enroll it anew: `certvoy proxies enroll NAME`",
            )

    def is_known(self, etag: str) -> bool:
        """Whether ``If-None-Match`` says that the caller has this already (RFC 9110 section 13.1.2)."""
        return _listed(self.headers.get(hdrs.IF_NONE_MATCH, ""), etag)

    def check_unchanged(self, etag: str | None) -> None:
        """Hold ``If-Match`` and ``If-None-Match`` against what is there; None: nothing is.

        Raises:
            PreconditionFailed: it is not what the caller has seen (RFC 9110 section 13.1).
        """
        wanted = self.headers.get(hdrs.IF_MATCH)
        if wanted is not None and not _listed(wanted, etag):
            raise PreconditionFailed("If-Match: it is not what it was", hint="read it again, then decide")
        unwanted = self.headers.get(hdrs.IF_NONE_MATCH)
        if unwanted is not None and _listed(unwanted, etag):
            raise PreconditionFailed("If-None-Match: it is there already", hint="read it first")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: a model as JSON, or bytes of another type."""

    body: BaseModel | bytes | None = None
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    ``scope`` None: open to whoever reaches the port, or, with ``peer``, to a client certificate with a grant;
    with both, either will do. The grant is the handler's to ask for.
    ``answers`` are the successes: status -> shape; None: no body, ``bytes``: not JSON, of ``content_type``.
    ``also``: another type in which OK is answered to who accepts it.
    ``reads``: other types in which the body may come -> how its parts are read from them.
    ``probe``: also on the listener of health and metrics, which knows no callers.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    scope: Scope | None
    answers: Mapping[HTTPStatus, type[BaseModel] | type[bytes] | None]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    peer: bool = False
    probe: bool = False
    reads: Mapping[str, Callable[[bytes], Any]] = field(default_factory=dict)
    content_type: str = "application/json"
    also: str | None = None

    @property
    def changes(self) -> bool:
        """Whether a caller may give it a key, by which it is done once."""
        return self.method != hdrs.METH_GET and (self.scope is not None or self.peer)


def application(routes: Sequence[Route], services: Services, callers: Callers | None) -> web.Application:
    """Return the routes as an application; ``callers`` None: nobody is asked who they are."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_problems])
    idempotency = Idempotency(database=services.database, clock=services.clock)
    for route in routes:
        app.router.add_route(route.method, route.path, _endpoint(route, services, callers, idempotency))
    return app


def etag(model: BaseModel) -> str:
    """Return a strong validator of the content (RFC 9110 section 8.8.3)."""
    return f'"{hashlib.sha256(model.model_dump_json().encode()).hexdigest()[:32]}"'


async def _once(
    route: Route, request: web.Request, call: Call, idempotency: Idempotency, key: str
) -> web.StreamResponse:
    """Answer what a caller has given a key of its own."""
    actor, body = call.caller.actor, await body_of(request, BODY_TIMEOUT_S)
    given = await idempotency.again(request, actor, key, body)
    if given is not None:
        return given
    async with idempotency.doing(request, actor, key, body):
        response = _response(await route.handler(call))
        idempotency.keep(request, actor, key, response)
        return response


def _endpoint(
    route: Route, services: Services, callers: Callers | None, idempotency: Idempotency
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def endpoint(request: web.Request) -> web.StreamResponse:
        caller = None
        try:
            if callers is not None and (route.scope is not None or route.peer):
                caller = await callers.of(request)
                _allow(route, caller)
            call = Call(
                services=services,
                caller=caller or Caller("nobody", frozenset()),
                path=_path(request),
                headers=request.headers,
                _query=None if route.query is None else _read_query(request, route.query),
                _body=None if route.body is None else await _read_body(request, route, route.body),
            )
            key = request.headers.get(HEADER)
            if key is None or caller is None or not route.changes:
                return _response(await route.handler(call))
            return await _once(route, request, call, idempotency, key)
        except (Unauthenticated, Forbidden) as e:
            services.on_refused(
                None if caller is None else caller.actor,
                f"{route.method} {route.path}",
                # Percent-encoded as it came: what somebody made up must not become a control character here.
                path=request.rel_url.raw_path[:SHOWN_PATH],
                why=e.message,
                address=request.remote,
            )
            raise

    return endpoint


def _allow(route: Route, caller: Caller | None) -> None:
    if caller is None:
        hint = (
            "send a token of `certvoy token create` as `Authorization: Bearer ...`, which commands take from"
            " CERTVOY_TOKEN, or connect with a client certificate"
        )
        raise Unauthenticated("this needs a caller with a name", hint=hint)
    if route.peer and caller.is_peer:
        return
    if route.scope is None:
        hint = "connect with the client certificate that has the grant, and send no Authorization"
        raise Forbidden(f"{caller.actor} is no client certificate, and nobody else may", hint=hint)
    if not caller.may(route.scope):
        raise Forbidden(f"{caller.actor} lacks the scope {route.scope}")


def _path(request: web.Request) -> Mapping[str, str]:
    for name, value in request.match_info.items():
        if "\x00" in value or not value.isprintable():
            raise CallerError(
                f"path: {name} holds a control character", hint="percent-encode plain names only"
            )
    return dict(request.match_info)


def _read_query(request: web.Request, shape: type[BaseModel]) -> BaseModel:
    given = request.query
    twice = sorted({key for key in given if len(given.getall(key)) > 1})
    if twice:
        raise CallerError(f"query: {', '.join(twice)} is given more than once", hint="give it once")
    return shape.model_validate(dict(given))


async def _read_body(request: web.Request, route: Route, shape: type[BaseModel]) -> BaseModel:
    read = route.reads.get(request.content_type)
    if read is None and request.content_type not in {"application/json", "application/octet-stream"}:
        # Without a Content-Type aiohttp says octet-stream: curl's own guess is worse than none.
        wanted = " or ".join(["application/json", *route.reads])
        raise CallerError(f"Content-Type: expected {wanted}, got {request.content_type}", hint="send JSON")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
        parsed = read(raw) if read else json.loads(raw) if raw else {}
    except TimeoutError:
        raise CallerError(f"body: it did not come within {BODY_TIMEOUT_S:g} s") from None
    except (ValueError, RecursionError) as e:
        raise CallerError(f"body: it is not JSON: {e}", hint="send one JSON object") from None
    return shape.model_validate(parsed)


def _response(answer: Answer) -> web.Response:
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    body = answer.body if isinstance(answer.body, bytes) else answer.body.model_dump_json().encode()
    # No charset parameter: JSON has none (RFC 8259 section 11).
    headers = {hdrs.CONTENT_TYPE: answer.content_type, hdrs.CACHE_CONTROL: "no-store", **answer.headers}
    return web.Response(body=body, status=answer.status, headers=headers)


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every failure into a problem document, and tell the log of those that are ours."""
    headers: dict[str, str] = {}
    try:
        return await handler(request)
    except CertvoyError as e:
        document = problem.of(e)
        if isinstance(e, Unavailable):
            headers[hdrs.RETRY_AFTER] = str(RETRY_AFTER_S)
        if isinstance(e, Unauthenticated):
            headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="certvoy"'
    except ValidationError as e:
        document = problem.invalid(e)
    except web.HTTPRequestEntityTooLarge:
        detail = f"body: more than {BODY_BYTES_MAX:,} bytes"
        document = problem.make("too-large", detail, hint="send less")
    except web.HTTPMethodNotAllowed as e:
        headers[hdrs.ALLOW] = ", ".join(sorted(e.allowed_methods))
        detail = f"{request.method} cannot be done here, {headers[hdrs.ALLOW]} can"
        document = problem.make("method-not-allowed", detail, hint="/openapi.json lists what can")
    except web.HTTPNotFound:
        detail = f"nothing is at {request.path[:SHOWN_PATH]}"
        document = problem.make("not-found", detail, hint="/openapi.json lists what is there")
    except web.HTTPException as e:
        document = problem.make("bad-request", e.reason, hint="correct the request")
    except Exception:  # noqa: BLE001 - a bug in one route must not look like an answer
        _log.exception("request.crashed", method=request.method, path=request.path[:SHOWN_PATH])
        hint = "report it, with the log's request.crashed"
        document = problem.make("internal", "certvoy failed to answer", hint=hint)
    return _problem_response(document, headers)


def _problem_response(document: Problem, headers: Mapping[str, str]) -> web.Response:
    content: dict[str, Any] = document.model_dump(exclude_defaults=True)
    return web.Response(
        text=json.dumps(content, ensure_ascii=False),
        status=document.status,
        headers=headers,
        content_type=problem.CONTENT_TYPE,
    )


def _listed(header: str, etag: str | None) -> bool:
    """Whether a list of validators names this one; ``*`` names whatever is there."""
    if etag is None:
        return False
    return header.strip() == "*" or etag in {item.strip() for item in header.split(",")}
