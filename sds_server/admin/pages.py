"""Pages of lists: a limit, and an opaque cursor that says behind what the next page begins."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

from pydantic import Field

from sds_server.admin.routes import Shape
from sds_server.errors import CallerError, NotFound

LIMIT_MAX: Final = 500
CURSOR_MAX: Final = 4096
ID_MAX: Final = 2**63 - 1

_UNSPEAKABLE = re.compile(r"[\x00\ud800-\udfff]")
"""What JSON can say and PostgreSQL cannot."""

Item = TypeVar("Item")
Key = str | int | None


class Page(Shape):
    """How much of a list, and from where."""

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = 100
    cursor: Annotated[str, Field(max_length=CURSOR_MAX)] | None = None


def after(cursor: str | None, *start: Key) -> Sequence[Key]:
    """Return the keys that the cursor holds, or those of the beginning.

    Raises:
        CallerError: it is not a cursor of this list.
    """
    if cursor is None:
        return start
    try:
        keys = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        keys = None
    types = [type(key) for key in start]
    if (
        not isinstance(keys, list)
        or [type(key) for key in keys] != types
        or any(isinstance(key, str) and _UNSPEAKABLE.search(key) for key in keys)
    ):
        raise CallerError("cursor: it is not one of this list", hint="take next_cursor of the page before")
    return keys


def cursor(items: Sequence[Item], limit: int, keys: Callable[[Item], Sequence[Key]]) -> str | None:
    """Return where the next page begins, by the last item's ``keys``; None: this one was the last."""
    if len(items) < limit:
        return None
    return base64.urlsafe_b64encode(json.dumps(list(keys(items[-1]))).encode()).decode()


def number(text: str, noun: str) -> int:
    """Return the number of an id in a path.

    Raises:
        NotFound: no number that anything of the kind could have.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(ID_MAX)) or int(text) > ID_MAX:
        raise NotFound(f"{noun} {text[:40]}: there is none of that id", hint=f"GET /v1/{noun}s lists them")
    return int(text)


def bounded(key: Key) -> int:
    """Return a cursor's number, no larger than the database can compare."""
    return max(min(int(key or 0), ID_MAX), -ID_MAX)
