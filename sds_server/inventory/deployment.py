"""The deployment: who we are, and the key of the content hashes."""

from dataclasses import dataclass, field
from uuid import UUID

from sds_server.inventory.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class VersionKey:
    """The key of the content hashes, wrapped; ``kek_uri`` None: a release before did not write it down."""

    wrapped: bytes = field(repr=False)
    kek_uri: str | None


async def identify(database: Database) -> tuple[UUID, VersionKey | None]:
    """Return the deployment's id and its version key; None until somebody has kept one."""
    async with database.transaction() as tx:
        row = await tx.row("deployment")
    assert row is not None  # noqa: S101 - the migration inserts it
    wrapped = row["version_key_wrapped"]
    return row["id"], None if wrapped is None else VersionKey(wrapped, row["version_key_kek"])


async def keep_version_key(database: Database, key: VersionKey) -> VersionKey:
    """Keep the key unless another replica was first, and return the one that was kept."""
    async with database.transaction() as tx:
        await tx.rows("keep_version_key", key.wrapped, key.kek_uri)
    _, kept = await identify(database)
    return kept or key


async def rewrap_version_key(tx: Transaction, before: VersionKey, after: VersionKey) -> bool:
    """Put the same key, wrapped anew, in the place of the one before; False: somebody else did."""
    done = await tx.value("rewrap_version_key", before.wrapped, after.wrapped, after.kek_uri)
    return done is not None
