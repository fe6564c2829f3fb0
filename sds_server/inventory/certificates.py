"""Certificates: their one writer of status, and what is served under a name."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sds_server.errors import IllegalTransition, NotFound
from sds_server.inventory import audit, retirement, sealed_keys
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.lifecycle import states
from sds_server.lifecycle.states import Event
from sds_server.model import (
    Certificate,
    CertificateId,
    CertificateStatus,
    Issuance,
    KeyId,
    SealedKey,
    SecretName,
)
from sds_server.staples.response import Staple

SERIALS_MAX: Final = 100
"""Of a Secret's latest generations: what is loaded still of those before is told as never ours."""

ACTIONS: Mapping[CertificateStatus, str] = {
    CertificateStatus.ACTIVE: "certificate.activated",
    CertificateStatus.EXPIRING_SOON: "certificate.due",
    CertificateStatus.ROTATING: "certificate.rotating",
    CertificateStatus.REPLACED: "certificate.replaced",
    CertificateStatus.REJECTED: "certificate.rejected",
    CertificateStatus.EXPIRED: "certificate.expired",
    CertificateStatus.REVOKED: "certificate.revoked",
}


OVER: Final = frozenset(
    {
        CertificateStatus.REPLACED,
        CertificateStatus.REJECTED,
        CertificateStatus.EXPIRED,
        CertificateStatus.REVOKED,
    }
)
"""Nobody is offered it any more, unless it expired and there is no other."""


RENEWABLE: Final = frozenset({CertificateStatus.ISSUED, CertificateStatus.ACTIVE})
"""Its renewal has not begun."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a Secret is served with now; ``cert_id`` None: nothing is issued yet."""

    cert_id: CertificateId | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class Stapled:
    """A staple as the inventory holds it, with its number and who signed it (DER)."""

    number: int
    staple: Staple
    issuer: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """A Certificate with its sealed key, and its staple, if there is one that has not ended.

    ``key_file``: where an Envoy finds a key that its Target keeps.
    """

    certificate: Certificate
    key: SealedKey
    key_file: str | None = None
    stapled: Stapled | None = None


async def move(
    tx: Transaction,
    cert_id: CertificateId,
    event: Event,
    *,
    actor: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> bool:
    """Let an event happen to a Certificate; the caller holds the Secret's lock.

    ``detail`` is what its audit entry says besides.

    Returns False where the event comes too late to mean anything (a second proof, a lapse after the lapse).

    Raises:
        NotFound: there is no such Certificate.
        IllegalTransition: its status was changed by somebody who did not hold the lock.
    """
    current = await tx.value("certificate_status", cert_id)
    if current is None:
        raise NotFound(f"certificate {cert_id}: there is none of that id")
    before = CertificateStatus(current)
    if not states.allows(before, event):
        return False
    after = states.after(before, event)
    if await tx.value("move_certificate", cert_id, before, after) is None:
        raise IllegalTransition(f"certificate {cert_id}: it is no longer {before}")
    if after in OVER:
        await retirement.retire(tx, cert_id)
    if before in RENEWABLE and after not in RENEWABLE:
        await tx.rows("end_renewal_info", cert_id)
    await audit.append(
        tx,
        action=ACTIONS[after],
        actor=actor,
        subject=subject,
        cert_id=cert_id,
        detail={"event": event} | dict(detail or {}),
    )
    return True


async def lapse(database: Database, *, limit: int, actor: str) -> int:
    """Mark as expired what has passed its notAfter, and say how many there were."""
    async with database.transaction() as tx:
        rows = await tx.rows("lapsed", limit)
        for row in rows:
            await move(tx, row["id"], Event.LAPSED, actor=actor, subject=str(row["id"]))
    return len(rows)


async def served(database: Database, names: Iterable[str]) -> Mapping[str, Served]:
    """Return what each name is served with now; a name that is not there is missing in the result."""
    async with database.transaction() as tx:
        rows = await tx.rows("served", list(names))
    return {row["name"]: Served(cert_id=row["id"], generation=row["generation"]) for row in rows}


async def pairs(database: Database, cert_ids: Sequence[CertificateId]) -> Sequence[Pair]:
    """Return these Certificates with their sealed keys; one whose key was destroyed is missing."""
    async with database.transaction() as tx:
        rows = await tx.rows("pairs", list(cert_ids))
    return [
        Pair(
            certificate=_certificate(row),
            key=sealed_keys.from_row(row),
            key_file=row["key_file"],
            stapled=_stapled(row),
        )
        for row in rows
    ]


async def page(
    database: Database,
    *,
    after: tuple[datetime, UUID],
    limit: int,
    secret: str | None = None,
    status: CertificateStatus | None = None,
    issuer: str | None = None,
    domain: str | None = None,
    fingerprint: str | None = None,
    ends_before: datetime | None = None,
) -> Sequence[Issuance]:
    """Return Certificates without their chains, nearest end first, behind ``after`` (end and id)."""
    async with database.transaction() as tx:
        rows = await tx.rows(
            "certificates", secret, status, issuer, domain, fingerprint, ends_before, *after, limit
        )
    return [_issuance(row) for row in rows]


async def get(database: Database, cert_id: CertificateId) -> Issuance:
    """Return one Certificate with its chain, whatever became of it.

    Raises:
        NotFound: there is none of that id.
    """
    async with database.transaction() as tx:
        row = await tx.row("certificate", cert_id)
    if row is None:
        raise NotFound(
            f"certificate {cert_id}: there is none of that id", hint="GET /v1/certificates lists them"
        )
    return _issuance(row)


async def generations(database: Database, secret: str, fingerprints: Collection[str]) -> Mapping[str, int]:
    """Return which generation of the Secret each leaf is; one that never was is missing."""
    async with database.transaction() as tx:
        rows = await tx.rows("generations", secret, list(fingerprints))
    return {row["fingerprint"]: row["generation"] for row in rows}


async def serials(database: Database, secret: str) -> Mapping[int, int]:
    """Return the Secret's latest generations by the serial number of each, which is one CA's own."""
    async with database.transaction() as tx:
        rows = await tx.rows("serials", secret, SERIALS_MAX)
    return {int(row["serial_number"], 16): row["generation"] for row in rows}


def _stapled(row: Row) -> Stapled | None:
    if row["response"] is None:
        return None
    held = Staple(row["response"], row["this_update"], row["next_update"])
    return Stapled(row["staple"], held, row["issuer_der"])


def _issuance(row: Row) -> Issuance:
    return Issuance(
        certificate=_certificate(row),
        issued_at=row["issued_at"],
        replaced_at=row["replaced_at"],
        revoked_at=row["revoked_at"],
    )


def _certificate(row: Row) -> Certificate:
    return Certificate(
        id=CertificateId(row["id"]),
        secret=SecretName(row["secret"]),
        generation=row["generation"],
        status=CertificateStatus(row["status"]),
        domains=(row["domain"], *row["san_domains"]),
        issuer=row["issuer"],
        serial_number=row["serial_number"],
        not_before=row["not_before"],
        not_after=row["not_after"],
        fingerprint=row["fingerprint"],
        key_id=KeyId(row["key_id"]),
        key_ref=row["key_ref"],
        chain_pem=row.get("chain_pem", "").encode(),
        renew_at=row["renew_at"],
        renew_reason=row["renew_reason"],
    )
