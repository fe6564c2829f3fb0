"""How things stand, counted: what metrics tell of the inventory. No statement reads what is well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sds_server.inventory import budgets
from sds_server.inventory.budgets import Emptiest
from sds_server.inventory.database import Database

DATES_MAX: Final = 10_000
"""Secrets with series of their own, three each: as many as one Prometheus takes from one program gladly."""

UNPROVED_MAX: Final = 1_000
"""Secrets and states with Targets that are not proved: where there are more, the counts say so."""


CHANGES_MAX: Final = 100
"""Changes of the number of Secrets that are kept apart: more are added up."""

COUNTED_EVERY: Final = timedelta(seconds=10)
"""How often Deliveries are counted, by one replica for all: new to each `read` of a replica every 15 s."""

SHARE: Final = 20
"""Where counting takes long it is done less often: for a twentieth of the time at most."""

ABANDONED: Final = timedelta(minutes=1)
"""Then another replica counts: longer than any statement may take."""

DELIVERIES_LAST: Final = timedelta(minutes=5)
"""Then a count is no count: longer than the longest pause between two."""


@dataclass(frozen=True, slots=True)
class Dates:
    """When what a Secret is served with begins, ends, and is to be renewed."""

    secret: str
    not_before: datetime
    not_after: datetime
    renew_at: datetime


@dataclass(frozen=True, slots=True)
class Backup:
    """What a restored database holds. ``until``: its last entry of the audit; None: it has none."""

    until: datetime | None
    entries: int
    secrets: int


FROZEN_MAX: Final = 1_000
"""Frozen Secrets with a series of their own."""

GUILTY_MAX: Final = 100
"""Names that failed with a series of their own."""

REFUSERS_MAX: Final = 100
"""Targets that refuse something with a series of their own."""

STALE_MAX: Final = 1_000
"""Secrets with stale Targets that have a series of their own."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A Secret that is held: since when, and whether by a person or because we ask one."""

    secret: str
    at: datetime
    by_person: bool


@dataclass(frozen=True, slots=True)
class StapleDates:
    """When the staple of what a Secret is served with begins and ends."""

    secret: str
    this_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True)
class Open:
    """Open Rotations of one state."""

    count: int
    oldest: datetime
    failing: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The inventory at one moment.

    ``deliveries`` None: nobody has counted them lately. ``unproved``: (Secret, state) -> Targets of its live
    set.
    """

    secrets: Mapping[str, int]
    overdue: int
    dates: Sequence[Dates]
    rotations: Mapping[str, Open]
    deliveries: Mapping[str, int] | None
    unproved: Mapping[tuple[str, str], int]
    frozen: Sequence[Frozen]
    staples: Sequence[StapleDates]
    stale: Mapping[str, datetime]
    """Since when some Target serves something else than it was proved to serve, by Secret."""

    refusers: Sequence[tuple[str, str]]
    """Secrets, each with a registered Target that refuses it."""

    left: Emptiest
    """What is left of CAs' limits."""

    deferred: Mapping[tuple[str, ...], int]
    """How many orders (issuer, reason) wait for a CA's count."""

    guilty: Mapping[tuple[str, ...], int]
    """How often a name (issuer, name) could not be validated in the last hour."""


async def read(database: Database) -> Facts:
    """Count; what grows with the inventory is not read, and Deliveries are counted by one replica for all.

    Raises:
        Unavailable: the database does not answer.
    """
    await _count_deliveries(database)
    async with database.transaction() as tx:
        secrets = await tx.row("count_secrets")
        assert secrets is not None  # noqa: S101 - an aggregate has one row
        if secrets["changes"] > CHANGES_MAX:
            await tx.rows("add_up_secrets")
        dates = await tx.rows("dates", DATES_MAX)
        rotations = await tx.rows("count_rotations")
        frozen = await tx.rows("freezes", FROZEN_MAX)
        stale = await tx.rows("stale_since", STALE_MAX)
        stapled = await tx.rows("staple_dates", DATES_MAX)
        guilty = await tx.rows("guilty", GUILTY_MAX)
        left = await budgets.emptiest_in(tx)
        deferred = await tx.rows("deferred_orders")
        counted = await tx.value("census", DELIVERIES_LAST)
        refused = [name for name, state, _ in counted["unproved"] if state == "refused"] if counted else []
        refusers = await tx.rows("refusers", refused, REFUSERS_MAX) if refused else []
    not_well = secrets["none"] + secrets["expired"]
    return Facts(
        secrets={
            "valid": secrets["secrets"] - not_well,
            "expired": secrets["expired"],
            "none": secrets["none"],
        },
        overdue=secrets["overdue"],
        dates=[Dates(row["name"], row["not_before"], row["not_after"], row["renew_at"]) for row in dates],
        rotations={row["state"]: Open(row["open"], row["oldest"], row["failing"]) for row in rotations},
        deliveries=None if counted is None else counted["states"],
        unproved={} if counted is None else {(name, state): n for name, state, n in counted["unproved"]},
        frozen=[Frozen(row["name"], row["frozen_at"], row["by_person"]) for row in frozen],
        staples=[StapleDates(row["secret"], row["this_update"], row["next_update"]) for row in stapled],
        stale={row["secret"]: row["since"] for row in stale},
        refusers=[(row["secret"], row["target"]) for row in refusers],
        left=left,
        deferred={(row["issuer"], row["reason"]): row["orders"] for row in deferred},
        guilty={(row["issuer"], row["identifier"]): row["failures"] for row in guilty},
    )


async def _count_deliveries(database: Database) -> None:
    """Count them where that is due and no other replica is at it."""
    async with database.transaction() as tx:
        if await tx.value("begin_census", ABANDONED) is None:
            return
    async with database.transaction() as tx:
        rows = await tx.rows("count_deliveries", UNPROVED_MAX)
        counted = {
            "states": {row["state"]: row["targets"] for row in rows if row["secret"] is None},
            "unproved": [
                (row["secret"], row["state"], row["targets"]) for row in rows if row["secret"] is not None
            ],
        }
        await tx.rows("end_census", counted, COUNTED_EVERY, SHARE)


async def backup(database: Database) -> Backup:
    """Return what this database holds, and until when."""
    async with database.transaction() as tx:
        row = await tx.row("backup")
    assert row is not None  # noqa: S101 - counts
    return Backup(**dict(row))
