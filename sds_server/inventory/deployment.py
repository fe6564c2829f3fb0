"""The deployment: who we are, and the key of the content hashes."""

from uuid import UUID

from sds_server.inventory.database import Database


async def identify(database: Database) -> tuple[UUID, bytes | None]:
    """Return the deployment's id and its wrapped version key; None until somebody has kept one."""
    async with database.transaction() as tx:
        row = await tx.row("deployment")
    assert row is not None  # noqa: S101 - the migration inserts it
    return row["id"], row["version_key_wrapped"]


async def keep_version_key(database: Database, wrapped: bytes) -> bytes:
    """Keep the key unless another replica was first, and return the one that was kept."""
    async with database.transaction() as tx:
        await tx.rows("keep_version_key", wrapped)
    _, kept = await identify(database)
    return kept or wrapped
