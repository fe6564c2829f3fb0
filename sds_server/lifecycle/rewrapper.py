"""The rewrapper: keys from one KEK, or version, to the newest, in batches, while all is served.

Only the wrapped DEK of a key changes: its envelope stays as it is, and closed. The rows are the state, so
that whoever is killed begins again where they are; whoever works beside another finds it done.
"""

import asyncio
from datetime import timedelta
from typing import Final
from uuid import UUID

from sds_server.crashpoint import crashpoint
from sds_server.errors import CustodyError, Unavailable
from sds_server.inventory import audit, deployment, sealed_keys
from sds_server.inventory.database import Database
from sds_server.inventory.deployment import VersionKey
from sds_server.keys.custody import UNKNOWN, Batch, Custody, listed
from sds_server.keys.kms import Sealer
from sds_server.model import KeyId, SealedKey

BATCH: Final = 100
"""In one transaction: a second of work, and no lock that anybody feels."""

FIRST: Final = KeyId(UUID(int=0))

VERSION_PURPOSE: Final = "version"
"""Of the one key that is ours and no certificate's: content hashes are made with it."""


class Rewrapper:
    """Says which KEKs are in use, and moves keys to the newest."""

    def __init__(self, *, database: Database, sealer: Sealer, backups_kept: timedelta | None = None) -> None:
        self._database = database
        self._sealer = sealer
        self._backups_kept = backups_kept

    async def custody(self) -> Custody:
        """Say which KEKs and versions are in use, by count; the KMS is asked for its newest version."""
        current, error, newest = self._sealer.kek_uri, None, None
        try:
            newest = await self._sealer.newest()
        except (CustodyError, Unavailable) as e:
            error = e.message
        used, left = await sealed_keys.keks(self._database)
        _, own = await deployment.identify(self._database)
        if own is not None:
            mine = (own.kek_uri or UNKNOWN, None if own.kek_uri is None else _version(own))
            used = {**used, mine: used.get(mine, 0) + 1}
        return Custody(
            current,
            newest,
            listed(
                used,
                left,
                current=current,
                newest=newest,
                opens=self._sealer.keks,
                backups_kept=self._backups_kept,
            ),
            error,
        )

    async def step(self, *, after: KeyId | None, every: bool, actor: str) -> Batch:
        """Rewrap the next batch behind ``after``; ``every``: also what the newest version has wrapped.

        Raises:
            CustodyError: the KEK that wraps refuses to: nothing can be rewrapped.
            Unavailable: a KMS or the database does not answer; what was done stays done.
        """
        newest = await self._sealer.newest()
        own = 0 if after is not None else await self._own_key(newest, every=every, actor=actor)
        behind = await sealed_keys.behind(
            self._database,
            after=after or FIRST,
            kek_uri=self._sealer.kek_uri,
            kek_version=newest,
            every=every,
            limit=BATCH,
        )
        results = await asyncio.gather(*map(self._sealer.rewrap, behind), return_exceptions=True)
        crashpoint("deks.rewrapped")
        done, refused, away = [], {}, None
        for old, result in zip(behind, results, strict=True):
            match result:
                case SealedKey():
                    done.append((old, result))
                case CustodyError():  # one row that is damaged keeps no other from its next KEK
                    refused[old.key_id] = result.message
                case Unavailable():
                    away = result
                case _:
                    raise result
        stored = await sealed_keys.rewrap(self._database, done, actor=actor)
        crashpoint("deks.stored")
        if away is not None:
            raise away
        return Batch(
            rewrapped=own + stored,
            passed_over=len(done) - stored,
            refused=refused,
            after=behind[-1].key_id if len(behind) == BATCH else None,
        )

    async def _own_key(self, newest: int, *, every: bool, actor: str) -> int:
        """Rewrap the key of the content hashes, where it is due; return how many keys that was."""
        _, before = await deployment.identify(self._database)
        current = self._sealer.kek_uri
        if before is None or (not every and before.kek_uri == current and _version(before) == newest):
            return 0
        key = await self._sealer.unwrap_key(before.wrapped, purpose=VERSION_PURPOSE, kek_uri=before.kek_uri)
        after = VersionKey(await self._sealer.wrap_key(key, purpose=VERSION_PURPOSE), current)
        async with self._database.transaction() as tx:
            if not await deployment.rewrap_version_key(tx, before, after):
                return 0
            await audit.append(
                tx,
                action="keys.rewrapped",
                actor=actor,
                subject=before.kek_uri or UNKNOWN,
                detail={
                    "from_version": _version(before),
                    "to": current,
                    "to_version": _version(after),
                    "keys": 1,
                },
            )
        return 1


def _version(key: VersionKey) -> int:
    return int.from_bytes(key.wrapped[:4])
