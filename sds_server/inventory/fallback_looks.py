"""Looks at the CAs that Secrets fall back on: which are due, and what was found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final

from sds_server.inventory.database import Database

LEASE: Final = timedelta(minutes=5)
"""For so long a replica that died keeps others from looking: longer than the looks at one batch."""

FOUND_MAX: Final = 10
"""Of one Secret: more are as a rule the same record once more."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """That a CA which is fallen back on may not issue for a name, why, and what would let it."""

    issuer: str
    name: str
    seen: str
    fix: str


async def claim(database: Database, *, limit: int) -> Sequence[tuple[str, Sequence[Forbidden]]]:
    """Return what this replica looks at now, with what was found before; nobody else looks for `LEASE`."""
    async with database.transaction() as tx:
        rows = await tx.rows("claim_fallback_looks", LEASE, limit)
    return [(row["secret"], [Forbidden(**one) for one in row["found"]]) for row in rows]


async def looked(database: Database, secret: str, found: Sequence[Forbidden], *, again_in: timedelta) -> None:
    """Note what was found."""
    async with database.transaction() as tx:
        await tx.rows("fallbacks_looked", secret, [asdict(one) for one in found[:FOUND_MAX]], again_in)


async def of(database: Database, secret: str) -> Sequence[Forbidden]:
    """Return what was found last of a Secret."""
    async with database.transaction() as tx:
        found = await tx.value("fallback_findings", secret)
    return [Forbidden(**one) for one in found or ()]
