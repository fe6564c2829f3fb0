"""ACME accounts: one a directory, even when many replicas start together."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from sds_server.crashpoint import crashpoint
from sds_server.inventory import audit, sealed_keys
from sds_server.inventory.database import Database
from sds_server.model import KeyId, SealedKey


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account's key, and its URL once the CA has given one.

    ``next_key_id``: a key that is to take its place, and has it already if the CA says so.
    """

    key_id: KeyId
    url: str | None
    next_key_id: KeyId | None = None


async def get(database: Database, directory_url: str) -> StoredAccount | None:
    """Return the directory's account; None: nobody has begun one."""
    async with database.transaction() as tx:
        row = await tx.row("account", directory_url)
    if row is None:
        return None
    return StoredAccount(
        key_id=KeyId(row["key_id"]),
        url=row["account_url"],
        next_key_id=None if row["next_key_id"] is None else KeyId(row["next_key_id"]),
    )


async def begin(database: Database, directory_url: str, key: SealedKey, *, actor: str) -> StoredAccount:
    """Keep this key as the account's unless another replica was first, and return the account that was kept.

    Whoever registers then does it with the same key, and the CA makes one account of it (RFC 8555 section
    7.3.1).
    """
    try:
        async with database.transaction() as tx:
            await sealed_keys.insert(tx, key)
            await tx.rows("insert_account", directory_url, key.key_id)
            detail = {"key_ref": key.key_ref}
            await audit.append(tx, action="account.begun", actor=actor, subject=directory_url, detail=detail)
    except asyncpg.UniqueViolationError:
        kept = await get(database, directory_url)
        assert kept is not None  # noqa: S101 - the index says that one is there
        return kept
    return StoredAccount(key_id=key.key_id, url=None)


async def registered(
    database: Database, directory_url: str, account: StoredAccount, *, url: str, actor: str
) -> None:
    """Write the URL that the CA knows the account by."""
    async with database.transaction() as tx:
        await tx.rows("account_registered", directory_url, account.key_id, url)
        await audit.append(
            tx, action="account.registered", actor=actor, subject=directory_url, detail={"account": url}
        )


async def forgotten(database: Database, directory_url: str, *, url: str, actor: str) -> None:
    """Take the URL back: the CA does not know it. The key stays, for the next registration."""
    async with database.transaction() as tx:
        if await tx.value("account_forgotten", directory_url, url) is not None:
            await audit.append(
                tx, action="account.forgotten", actor=actor, subject=directory_url, detail={"account": url}
            )


async def plan_key(
    database: Database, directory_url: str, account: StoredAccount, key: SealedKey, *, actor: str
) -> None:
    """Keep a key that is to take the place of the account's, unless another replica was first."""
    async with database.transaction() as tx:
        await sealed_keys.insert(tx, key)
        if await tx.value("plan_account_key", directory_url, account.key_id, key.key_id) is not None:
            detail = {"account": account.url, "key_ref": key.key_ref}
            await audit.append(
                tx, action="account.key_planned", actor=actor, subject=directory_url, detail=detail
            )
            crashpoint("account.key_planning")


async def key_changed(database: Database, directory_url: str, key_id: KeyId, *, actor: str) -> None:
    """The CA has the key that was planned: it is the account's. Nothing is changed where that is known."""
    async with database.transaction() as tx:
        if await tx.value("account_key_changed", directory_url, key_id) is not None:
            await audit.append(tx, action="account.key_changed", actor=actor, subject=directory_url)
            crashpoint("account.key_changing")


async def deactivated(database: Database, directory_url: str, *, url: str, actor: str) -> None:
    """The CA takes no request of the account any more: the next order begins another."""
    async with database.transaction() as tx:
        if await tx.value("account_deactivated", directory_url, url) is not None:
            await audit.append(
                tx, action="account.deactivated", actor=actor, subject=directory_url, detail={"account": url}
            )


async def contact_told(database: Database, directory_url: str, *, contact: Sequence[str], actor: str) -> None:
    """Write down that the CA was told to whom it may write."""
    async with database.transaction() as tx:
        await audit.append(
            tx,
            action="account.contact_told",
            actor=actor,
            subject=directory_url,
            detail={"contact": list(contact)},
        )
