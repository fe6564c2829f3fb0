"""Pages of lists: a limit, and an opaque cursor that says behind what the next page begins."""

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Final, TypeVar

from pydantic import Field

from sds_server.admin.routes import Shape
from sds_server.errors import CallerError

LIMIT_MAX: Final = 500
CURSOR_MAX: Final = 4096

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
    if not isinstance(keys, list) or [type(key) for key in keys] != types or "\x00" in str(keys):
        raise CallerError("cursor: it is not one of this list", hint="take next_cursor of the page before")
    return keys


def cursor(items: Sequence[Item], limit: int, *keys: Key) -> str | None:
    """Return where the next page begins; None: this one was the last. ``keys`` are those of its last item."""
    if len(items) < limit:
        return None
    return base64.urlsafe_b64encode(json.dumps(keys).encode()).decode()
