"""How things stand, counted: what metrics tell of the inventory. A few statements, each with a limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sds_server.inventory.database import Database

DATES_MAX: Final = 10_000
"""Secrets with series of their own, three each: as many as one Prometheus takes from one program gladly."""

UNPROVED_MAX: Final = 1_000
"""Secrets and states with Targets that are not proved: where there are more, the counts say so."""


@dataclass(frozen=True, slots=True)
class Dates:
    """When what a Secret is served with begins, ends, and is to be renewed."""

    secret: str
    not_before: datetime
    not_after: datetime
    renew_at: datetime


@dataclass(frozen=True, slots=True)
class Open:
    """Open Rotations of one state."""

    count: int
    oldest: datetime
    failing: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The inventory at one moment. ``unproved``: (Secret, state) -> Targets of its live set."""

    secrets: Mapping[str, int]
    overdue: int
    dates: Sequence[Dates]
    rotations: Mapping[str, Open]
    deliveries: Mapping[str, int]
    unproved: Mapping[tuple[str, str], int]


async def read(database: Database) -> Facts:
    """Count.

    Raises:
        Unavailable: the database does not answer.
    """
    async with database.transaction() as tx:
        secrets = await tx.row("count_secrets")
        assert secrets is not None  # noqa: S101 - an aggregate has one row
        dates = await tx.rows("dates", DATES_MAX)
        rotations = await tx.rows("count_rotations")
        deliveries = await tx.rows("count_deliveries", UNPROVED_MAX)
    return Facts(
        secrets={state: secrets[state] for state in ("valid", "expired", "none")},
        overdue=secrets["overdue"],
        dates=[Dates(row["name"], row["not_before"], row["not_after"], row["renew_at"]) for row in dates],
        rotations={row["state"]: Open(row["open"], row["oldest"], row["failing"]) for row in rotations},
        deliveries={row["state"]: row["targets"] for row in deliveries if row["secret"] is None},
        unproved={
            (row["secret"], row["state"]): row["targets"] for row in deliveries if row["secret"] is not None
        },
    )
