"""Staples: which certificates are asked about, what was answered, and which staple goes out with which.

A staple is no Certificate: a new one changes what is sent and nothing of the Rotation, its generation or
what a Target was proved to serve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sds_server.crashpoint import crashpoint
from sds_server.inventory import feed, revocations
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import UPLOADED, CertificateId
from sds_server.staples.response import Responder, Staple

LEASE: Final = timedelta(seconds=60)
"""For so long a replica that died keeps others from asking about a certificate: longer than one answer."""


@dataclass(frozen=True, slots=True)
class Due:
    """A certificate that is to be asked about now; ``attempts`` failed since the last answer."""

    cert_id: CertificateId
    secret: str
    generation: int
    issuer: str
    chain_pem: bytes
    responder: Responder
    staple: Staple | None
    attempts: int

    @property
    def uploaded(self) -> bool:
        """Whether somebody brought it: no CA of ours chose its responder."""
        return self.issuer.startswith(UPLOADED)


@dataclass(frozen=True, slots=True)
class Stapling:
    """What `certvoy why` says of a certificate's staple."""

    url: str
    must: bool
    next_update: datetime | None
    next_at: datetime
    revoked_at: datetime | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class First:
    """The staple with which a new Certificate goes out; after ``again_in`` the next one is fetched."""

    staple: Staple
    again_in: timedelta


async def expect_in(
    tx: Transaction, cert_id: CertificateId, responder: Responder, *, must: bool, first: First | None = None
) -> None:
    """Have a new Certificate's responder asked, at once; where it was, keep what it said."""
    await tx.rows("expect_staple", cert_id, responder.url, responder.issuer, must)
    if first is not None:
        staple = first.staple
        await tx.rows(
            "keep_staple",
            cert_id,
            staple.response,
            staple.this_update,
            staple.next_update,
            first.again_in,
            True,  # noqa: FBT003 - a column: it is another one than before, which was none
        )


async def claim(database: Database, *, limit: int, without: Sequence[str]) -> Sequence[Due]:
    """Return what this replica asks about now, and nobody else for `LEASE`; of issuers ``without`` none."""
    async with database.transaction() as tx:
        await tx.rows("forget_staples", limit)
        rows = await tx.rows("claim_staples", LEASE, limit, list(without))
    return [_due(row) for row in rows]


async def good(database: Database, due: Due, staple: Staple, *, again_in: timedelta) -> bool:
    """Keep a staple and have it sent along; say whether it is another one than before."""
    async with database.transaction() as tx:
        changed = due.staple is None or due.staple.response != staple.response
        await tx.value("lock_secret_of", due.cert_id)
        kept = await tx.value(
            "keep_staple",
            due.cert_id,
            staple.response,
            staple.this_update,
            staple.next_update,
            again_in,
            changed,
        )
        if kept is None:
            return False
        crashpoint("staple.keeping")
        if changed:
            await feed.tell_secret(tx, due.secret)
    return changed


async def failed(database: Database, due: Due, *, error: Mapping[str, Any], again_in: timedelta) -> None:
    """Keep why there was no answer; what is stapled stays until it ends."""
    async with database.transaction() as tx:
        await tx.rows("staple_failed", due.cert_id, dict(error), again_in)


async def revoked(database: Database, due: Due, *, reason: str, code: str | None, actor: str) -> bool:
    """Take the responder's word that the Certificate is revoked; False: that is known already."""
    async with database.transaction() as tx:
        await tx.value("lock_secret_of", due.cert_id)
        if await tx.value("staple_revoked", due.cert_id) is None:
            return False
        return await revocations.found(
            tx, due.cert_id, code=code, said=reason, by="ocsp", uploaded=due.uploaded, actor=actor
        )


async def of(database: Database, cert_id: CertificateId) -> Stapling | None:
    """Return how it stands with a Certificate's staple; None: nobody is asked about it."""
    async with database.transaction() as tx:
        row = await tx.row("stapling", cert_id)
    if row is None:
        return None
    return Stapling(
        url=row["url"],
        must=row["must"],
        next_update=row["next_update"],
        next_at=row["next_at"],
        revoked_at=row["revoked_at"],
        error=row["error"],
    )


def from_row(row: Row) -> Staple | None:
    """Read the staple of a row; None: there is none."""
    if row["response"] is None:
        return None
    return Staple(row["response"], row["this_update"], row["next_update"])


def _due(row: Row) -> Due:
    return Due(
        cert_id=CertificateId(row["cert_id"]),
        secret=row["secret"],
        generation=row["generation"],
        issuer=row["issuer"],
        chain_pem=row["chain_pem"].encode(),
        responder=Responder(row["url"], row["issuer_der"]),
        staple=from_row(row),
        attempts=row["attempts"],
    )
