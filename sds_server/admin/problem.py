"""Errors as ``application/problem+json`` (RFC 9457), each with what to do next."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from sds_server.config.values import Wrong
from sds_server.errors import (
    BadName,
    CallerError,
    CertvoyError,
    Conflict,
    Forbidden,
    GateRefused,
    IssuanceFailed,
    NotFound,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
)

CONTENT_TYPE: Final = "application/problem+json"
MAX_ERRORS: Final = 100


class FieldError(BaseModel):
    """What is wrong with one part of the request; ``pointer`` is a JSON Pointer (RFC 6901) into it."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """A problem document. ``ca_problems`` are the CA's own (RFC 8555 section 6.7), unchanged."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    errors: list[FieldError] = []
    ca_problems: list[dict[str, Any]] = []


TITLES: Final[Mapping[str, tuple[HTTPStatus, str]]] = {
    "bad-request": (HTTPStatus.BAD_REQUEST, "The request cannot be understood"),
    "unauthenticated": (HTTPStatus.UNAUTHORIZED, "Nobody knows who is asking"),
    "forbidden": (HTTPStatus.FORBIDDEN, "The caller may not do this"),
    "not-found": (HTTPStatus.NOT_FOUND, "There is no such thing"),
    "method-not-allowed": (HTTPStatus.METHOD_NOT_ALLOWED, "This cannot be done here"),
    "conflict": (HTTPStatus.CONFLICT, "It cannot be done as things are"),
    "precondition-failed": (HTTPStatus.PRECONDITION_FAILED, "It was changed meanwhile"),
    "too-large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large"),
    "validation-failed": (HTTPStatus.UNPROCESSABLE_ENTITY, "Parts of the request are wrong"),
    "gate-refused": (HTTPStatus.UNPROCESSABLE_ENTITY, "The content gate refused the pair"),
    "internal": (HTTPStatus.INTERNAL_SERVER_ERROR, "Something is broken in certvoy"),
    "ca-refused": (HTTPStatus.BAD_GATEWAY, "The CA said no, or nothing"),
    "unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "Something that certvoy needs does not answer"),
}
"""slug -> status, title; a client that branches does so on the slug."""

_SLUGS: Final[Sequence[tuple[type[CertvoyError], str]]] = (
    # The first that fits counts: subclasses before what they are.
    (NotFound, "not-found"),
    (Conflict, "conflict"),
    (PreconditionFailed, "precondition-failed"),
    (Unauthenticated, "unauthenticated"),
    (Forbidden, "forbidden"),
    (BadName, "validation-failed"),
    (CallerError, "bad-request"),
    (GateRefused, "gate-refused"),
    (Unavailable, "unavailable"),
    (IssuanceFailed, "ca-refused"),
    (CertvoyError, "internal"),
)


def of(error: CertvoyError) -> Problem:
    """Return the document for one of our errors."""
    slug = next(slug for kind, slug in _SLUGS if isinstance(error, kind))
    document = make(slug, error.message, hint=error.next_step)
    if isinstance(error, IssuanceFailed):
        document.ca_problems = list(error.told.get("problems", ()))
    return document


def invalid(error: ValidationError, *, where: str = "") -> Problem:
    """Return the document for a request that its model refuses; ``where`` precedes each pointer."""
    errors = [
        FieldError(pointer=where + _pointer(detail["loc"]), detail=_said(detail))
        for detail in error.errors(include_url=False)[:MAX_ERRORS]
    ]
    what = "; ".join(f"{item.pointer or '/'}: {item.detail}" for item in errors)
    return make("validation-failed", what, hint="correct what is named and send it again", errors=errors)


def make(slug: str, detail: str, *, hint: str, errors: Sequence[FieldError] = ()) -> Problem:
    """Return a document of this slug."""
    status, title = TITLES[slug]
    return Problem(
        type=f"urn:certvoy:problem:{slug}",
        title=title,
        status=status,
        detail=detail,
        hint=hint,
        errors=[*errors],
    )


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _said(detail: Any) -> str:
    wrong = detail.get("ctx", {}).get("error")
    return f"{wrong}; {wrong.hint}" if isinstance(wrong, Wrong) else str(detail["msg"])
