"""Staple ends: when what is served is to go without the staple that it has. No database is asked for that."""

from collections.abc import Iterable, MutableMapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from sds_server.log import get
from sds_server.xds.catalog import Resource

T = TypeVar("T")

_log = get("publisher")


class StapleEnds:
    """The first end of each name that has staples, and of all of them."""

    def __init__(self) -> None:
        self._ends: dict[str, datetime] = {}
        self._first: datetime | None = None

    def note(self, name: str, resources: Iterable[Resource]) -> None:
        """These are what is served under the name from now on."""
        ends = [one.staple_ends for one in resources if one.staple_ends is not None]
        if not ends and name not in self._ends:
            return
        self._ends.pop(name, None)
        if ends:
            self._ends[name] = min(ends)
        self._first = min(self._ends.values(), default=None)

    def due(self, now: datetime) -> list[str]:
        """Return the names of which a staple has ended."""
        if self._first is None or now < self._first:
            return []
        return [name for name, ends in self._ends.items() if ends <= now]


def strip(name: str, served: MutableMapping[T, Resource], *, now: datetime) -> None:
    """Take off the staples that have ended.

    Nobody may be given a certificate without that must be stapled: who has it serves on, and a person is
    told.
    """
    for content, resource in list(served.items()):
        if resource.staple_ends is None or resource.staple_ends > now:
            continue
        if resource.instead is None:
            _log.error("staple.overdue", secret=name, generation=resource.generation)
            served[content] = replace(resource, staple_ends=None)
        else:
            _log.warning("staple.ended", secret=name, generation=resource.generation)
            served[content] = resource.instead
