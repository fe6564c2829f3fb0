"""Revocation lists: which one tells of which certificate, when it is looked at next, and what that brings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sds_server.crls.content import Entry, Point
from sds_server.inventory import revocations
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import UPLOADED, CertificateId

LEASE: Final = timedelta(minutes=5)
"""For so long a replica that died keeps others from looking at a list: longer than to fetch and read one."""


@dataclass(frozen=True, slots=True)
class Due:
    """A list that is to be looked at now; ``attempts`` failed since it was last read.

    ``uploaded``: the certificates were brought, and no CA of ours chose the URL.
    """

    id: int
    point: Point
    uploaded: bool
    attempts: int
    etag: str | None
    this_update: datetime | None
    next_update: datetime | None


@dataclass(frozen=True, slots=True)
class Told:
    """A Certificate that a list tells of."""

    cert_id: CertificateId
    secret: str
    generation: int


async def expect_in(tx: Transaction, cert_id: CertificateId, issuer: str, point: Point) -> None:
    """Have the list looked at that tells of a new Certificate.

    One that we have just ordered cannot be in the list as it was last read; one that was brought can.
    """
    await tx.rows("expect_crl", point.url, point.issuer, issuer.startswith(UPLOADED))
    await tx.rows("tell_by_crl", cert_id, point.url, point.issuer, issuer.startswith(UPLOADED))


async def claim(database: Database, *, limit: int) -> Sequence[Due]:
    """Return what this replica looks at now, and nobody else for `LEASE`."""
    async with database.transaction() as tx:
        return [_due(row) for row in await tx.rows("claim_crls", LEASE, limit)]


async def told_by(database: Database, due: Due, *, without: Sequence[str]) -> Mapping[int, Told]:
    """Return by serial number whom the list tells of; of issuers ``without`` none."""
    async with database.transaction() as tx:
        await tx.rows("forget_told_by_crl", due.id)
        rows = await tx.rows("told_by_crl", due.id, list(without))
    return {
        int(row["serial_number"], 16): Told(CertificateId(row["id"]), row["secret"], row["generation"])
        for row in rows
    }


async def rest(database: Database, due: Due, *, again_in: timedelta) -> None:
    """Leave a list that is of no use now: for ``again_in``, or until it tells of a new Certificate."""
    async with database.transaction() as tx:
        await tx.rows("rest_crl", due.id, again_in)


async def read(
    database: Database,
    due: Due,
    *,
    this_update: datetime,
    next_update: datetime | None,
    etag: str | None,
    again_in: timedelta,
) -> None:
    """Note which list was read."""
    async with database.transaction() as tx:
        await tx.rows("crl_read", due.id, this_update, next_update, etag, again_in)


async def failed(database: Database, due: Due, *, error: Mapping[str, Any], again_in: timedelta) -> None:
    """Keep why there is no list."""
    async with database.transaction() as tx:
        await tx.rows("crl_failed", due.id, dict(error), again_in)


async def revoked(database: Database, told: Told, entry: Entry, *, uploaded: bool, actor: str) -> bool:
    """Take the list's word that a Certificate is revoked; False: that is known already."""
    async with database.transaction() as tx:
        return await revocations.found(
            tx, told.cert_id, code=entry.code, said=entry.said, by="crl", uploaded=uploaded, actor=actor
        )


def _due(row: Row) -> Due:
    return Due(
        id=row["id"],
        point=Point(row["url"], row["issuer_der"]),
        uploaded=row["uploaded"],
        attempts=row["attempts"],
        etag=row["etag"],
        this_update=row["this_update"],
        next_update=row["next_update"],
    )
