"""Rotations that ended long ago, and their orders: forgotten. The audit keeps what they did, for ever.

Certificates stay, with their chains: what was issued is asked for years later.
"""

from datetime import timedelta
from typing import Final

from sds_server.inventory.database import Database

DEFAULT: Final = timedelta(days=365)
"""Longer than a public certificate lives."""


async def forget(database: Database, *, older_than: timedelta, limit: int) -> int:
    """Forget finished Rotations with their orders; return how many.

    One stays while what it brought is served (its order is named by the next), while it has something in DNS
    or an answer that can be asked for, and until the keys of its orders are destroyed.
    """
    async with database.transaction() as tx:
        rows = await tx.rows("finished_rotations", older_than, limit)
        rotations = [row["id"] for row in rows]
        await tx.rows("forget_orders", rotations)
        await tx.rows("forget_rotations", rotations)
    return len(rotations)
