"""What people and programs read: tables, times, JSON. Data goes to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from sds_server.clock import span

FINGERPRINT_SHOWN: Final = 16
NONE: Final = "-"

json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's own JSON.")


def print_json(content: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their headings, aligned; nothing for no rows."""
    cells = [[NONE if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def facts(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one a line, aligned."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name.ljust(width)}  {NONE if value is None else value}")


def moment(text: str | None, *, now: datetime | None = None) -> str:
    """Return a time of the API; for people also how far away it is."""
    if text is None:
        return NONE
    at = datetime.fromisoformat(text)
    shown = f"{at.astimezone(UTC):%FT%TZ}"
    if not sys.stdout.isatty():
        return shown
    seconds = (at - (now or datetime.now(UTC))).total_seconds()
    return f"{shown} (in {span(seconds)})" if seconds >= 0 else f"{shown} ({span(-seconds)} ago)"


def age(text: str | None) -> str:
    """Return how long ago a time of the API was."""
    if text is None:
        return NONE
    return span((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())


def short(fingerprint: str | None) -> str:
    """Return the beginning of a fingerprint: enough to compare by eye."""
    return NONE if fingerprint is None else f"{fingerprint[:FINGERPRINT_SHOWN]}..."


def note(text: str) -> None:
    """Say something to whoever watches."""
    click.echo(text, err=True)
