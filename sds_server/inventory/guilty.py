"""Names whose validation failed lately, and certificates issued lately: what a CA counts against them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from sds_server.inventory.database import Database, Transaction


async def note(tx: Transaction, issuer: str, guilty: Collection[tuple[str, str]]) -> None:
    """Write down which names (with the type of the problem) could not be validated."""
    if guilty:
        names, types = zip(*sorted(guilty), strict=True)
        await tx.rows("note_failures", issuer, list(names), list(types))


async def failed(
    database: Database, issuers: Collection[str], names: Sequence[str], *, within: timedelta
) -> Mapping[str, Sequence[timedelta]]:
    """Return how long ago validations of these names failed at these issuers."""
    ages: dict[str, list[timedelta]] = defaultdict(list)
    async with database.transaction() as tx:
        for row in await tx.rows("failures_of", sorted(issuers), list(names), within):
            ages[row["identifier"]].append(row["age"])
    return ages


async def issued(
    database: Database, issuers: Collection[str], names: Sequence[str], *, within: timedelta
) -> Sequence[timedelta]:
    """Return how long ago certificates for exactly these names were issued by these issuers."""
    async with database.transaction() as tx:
        rows = await tx.rows("issued_lately", sorted(issuers), list(names), within)
    return [row["age"] for row in rows if {row["domain"], *row["san_domains"]} == set(names)]
