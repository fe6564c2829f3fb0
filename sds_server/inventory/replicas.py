"""Replicas: which of them live, by the database's clock. What a dead one's streams said counts no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sds_server.inventory import instances
from sds_server.inventory.database import Database
from sds_server.model import Identity

BURIED_AT_ONCE: Final = 500
NAMED_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Several:
    """A Target of which several streams are open, one of them here."""

    name: str
    identity: Identity | None
    node_id: str | None
    instances: int


async def live(database: Database, token: str, name: str, *, lasts: timedelta, first: bool) -> bool:
    """Say that this replica lives for ``lasts`` more; return whether it counted as living until now.

    ``first``: it is the first word of this life, and an earlier one of the same name is over.
    """
    async with database.transaction() as tx:
        return bool(await tx.value("replica_lives", token, name, lasts, first))


async def end(database: Database, token: str) -> None:
    """Say that it stops: its streams count no more."""
    async with database.transaction() as tx:
        await tx.rows("replica_ends", token)


async def bury(database: Database, *, actor: str) -> frozenset[str]:
    """Roll up without the dead what they spoke of; return the Secrets."""
    names: set[str] = set()
    while True:
        async with database.transaction() as tx:
            found = await instances.bury(tx, limit=BURIED_AT_ONCE, actor=actor)
        names.update(found)
        if len(found) < BURIED_AT_ONCE:
            return frozenset(names)


async def several(database: Database, token: str) -> Sequence[Several]:
    """Return Targets of which several streams are open, one of them here; not more than a person reads."""
    async with database.transaction() as tx:
        return [
            Several(
                name=row["name"],
                identity=None if row["identity"] is None else Identity(row["identity"]),
                node_id=row["node_id"],
                instances=row["instances"],
            )
            for row in await tx.rows("several_instances", token, NAMED_MAX)
        ]
