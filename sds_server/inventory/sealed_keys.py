"""Sealed private keys: what the key_material table holds of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import uuid4

from sds_server.crashpoint import crashpoint
from sds_server.errors import NotFound
from sds_server.inventory import audit
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.keys.custody import Checked, KekVersion
from sds_server.model import KeyId, SealedKey

TOLD_MAX: Final = 20
"""So many keys that do not open are named in an entry of the audit."""


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


async def keks(database: Database) -> tuple[Mapping[KekVersion, int], Mapping[KekVersion, datetime]]:
    """Return how many keys each version of a KEK has wrapped, and when the last ones were moved from it."""
    async with database.transaction() as tx:
        used = {(row["kek_uri"], row["kek_version"]): row["keys"] for row in await tx.rows("keks_in_use")}
        left = {(row["kek_uri"], row["kek_version"]): row["left_at"] for row in await tx.rows("keks_left")}
    return used, left


@dataclass(frozen=True, slots=True)
class Sampled:
    """A key, with the chain of the Certificate that it belongs to; None: it belongs to none."""

    key: SealedKey
    chain_pem: str | None


async def sample(database: Database, count: int) -> Sequence[Sampled]:
    """Return so many keys by chance, or all that are sealed here."""
    async with database.transaction() as tx:
        rows = await tx.rows("sample_keys", uuid4(), count)
    return [Sampled(from_row(row), row["chain_pem"]) for row in rows]


async def tell_checked(database: Database, checked: Checked, *, kek_uri: str, actor: str) -> None:
    """Audit that keys were opened by chance, and which did not open."""
    detail = {
        "opened": checked.opened,
        "refused": {str(key_id): why for key_id, why in list(checked.refused.items())[:TOLD_MAX]},
        "failed": len(checked.refused),
    }
    async with database.transaction() as tx:
        await audit.append(tx, action="keys.checked", actor=actor, subject=kek_uri, detail=detail)


async def behind(
    database: Database, *, after: KeyId, kek_uri: str, kek_version: int, every: bool, limit: int
) -> Sequence[SealedKey]:
    """Return the next keys that this version of the KEK has not wrapped; ``every``: those that it has too."""
    async with database.transaction() as tx:
        rows = await tx.rows("keys_behind", after, kek_uri, kek_version, every, limit)
    return [from_row(row) for row in rows]


async def rewrap(database: Database, keys: Sequence[tuple[SealedKey, SealedKey]], *, actor: str) -> int:
    """Put each key's DEK, wrapped anew, in the place of the one before; return how many that were.

    One KEK wraps all that is new. What was changed or destroyed meanwhile stays as it is.
    """
    if not keys:
        return 0
    moved: Counter[tuple[str, int, int]] = Counter()
    (kek_uri,) = {new.kek_uri for _, new in keys}
    async with database.transaction() as tx:
        rows = await tx.rows(
            "rewrap_keys",
            [old.key_id for old, _ in keys],
            [old.dek_wrapped for old, _ in keys],
            [new.dek_wrapped for _, new in keys],
            kek_uri,
            [new.kek_version for _, new in keys],
        )
        done = {row["id"] for row in rows}
        for old, new in keys:
            if old.key_id in done:
                moved[old.kek_uri, old.kek_version, new.kek_version] += 1
        for (before, from_version, to_version), count in sorted(moved.items()):
            detail = {"from_version": from_version, "to": kek_uri, "to_version": to_version, "keys": count}
            await audit.append(tx, action="keys.rewrapped", actor=actor, subject=before, detail=detail)
        crashpoint("deks.storing")
    return len(done)


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
