"""Refused content: what each node said no to, by content, for as long as it might be offered that again."""

from collections.abc import Sequence
from typing import Final

from sds_server.inventory.database import Database
from sds_server.model import Identity

NEWEST: Final = 100_000
"""A replica reads so many at start: about 60 MB. One that is forgotten is sent and refused once more."""

SWEPT_AT_ONCE: Final = 5_000
"""A statement's part of a sweep, so that none takes long."""


async def newest(database: Database) -> Sequence[tuple[Identity, str, str, str]]:
    """Return what was refused last: (identity, node id, secret, version) each."""
    async with database.transaction() as tx:
        return [
            (Identity(row["identity"]), row["node_id"], row["secret"], row["version"])
            for row in await tx.rows("refused_content", NEWEST)
        ]


async def sweep(database: Database) -> int:
    """Forget refusals of content that nobody will be offered any more, and say how many there were."""
    swept = 0
    while True:
        async with database.transaction() as tx:
            found = len(await tx.rows("sweep_refused_content", SWEPT_AT_ONCE))
        swept += found
        if found < SWEPT_AT_ONCE:
            return swept
