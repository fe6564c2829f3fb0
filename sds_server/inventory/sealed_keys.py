"""Sealed private keys: what the key_material table holds of them."""

from sds_server.errors import NotFound
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import KeyId, SealedKey


async def insert(tx: Transaction, key: SealedKey) -> None:
    """Store a sealed key."""
    await tx.rows(
        "insert_key",
        key.key_id,
        key.purpose,
        key.spki_sha256,
        key.suite,
        key.envelope,
        key.dek_wrapped,
        key.kek_uri,
        key.kek_version,
    )


async def get(database: Database, key_id: KeyId) -> SealedKey:
    """Return a sealed key.

    Raises:
        NotFound: there is none, or it was destroyed.
    """
    async with database.transaction() as tx:
        row = await tx.row("key", key_id)
    if row is None:
        raise NotFound(f"key {key_id}: there is none, or it was destroyed")
    return from_row(row)


def from_row(row: Row) -> SealedKey:
    """Read the key's columns of a row."""
    return SealedKey(
        key_id=KeyId(row["key_id"]),
        purpose=row["purpose"],
        spki_sha256=row["spki_sha256"],
        suite=row["suite"],
        envelope=row["envelope"],
        dek_wrapped=row["dek_wrapped"],
        kek_uri=row["kek_uri"],
        kek_version=row["kek_version"],
    )
