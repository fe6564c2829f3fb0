"""Revocations: wanted, claimed, done or failed.

The CA is asked when no Target needs the Certificate any more (`revocable` in the schema), or at once
where that was wanted. A Certificate is `revoked` when the CA has said so, not before.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sds_server.errors import Conflict, NotFound
from sds_server.inventory import audit, certificates, feed, rotations, secrets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.lifecycle.states import Event
from sds_server.model import (
    UPLOADED,
    CertificateId,
    CertificateStatus,
    Reason,
    Revocation,
    RevocationReason,
    RotationId,
    SecretName,
)

LISTED: Final = 20
"""Of one Secret, the newest: who wants to know of older ones looks at the Certificates."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A Certificate that the CA is to be asked to revoke now."""

    cert_id: CertificateId
    reason: RevocationReason
    attempts: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was wanted, and the Rotation that brings the successor of what is served; None: none is needed."""

    revocation: Revocation
    rotation: RotationId | None


async def request(
    database: Database,
    secret: str,
    *,
    generation: int | None,
    reason: RevocationReason,
    at_once: bool,
    actor: str,
) -> Wanted:
    """Want a generation of the Secret revoked; None: the one that is served.

    For what is served a Rotation is opened in the same transaction. Wanting the same again tries it now;
    another reason takes the place of the first, and ``at_once`` is not taken back.

    Raises:
        NotFound: there is no such Secret or generation, or nothing is served.
        Conflict: no CA of ours can revoke it, or need.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        row = await tx.row("certificate_to_revoke", secret, generation)
        if row is None:
            what = "nothing is served" if generation is None else f"it has no generation {generation}"
            raise NotFound(
                f"secret {secret}: {what}", hint=f"`certvoy ls --secret {secret}` lists what it has"
            )
        _refuse(secret, row)
        rotation = None
        if row["status"] != CertificateStatus.REVOKED:
            await tx.rows("want_revocation", row["id"], reason, at_once)
            await audit.append(
                tx,
                action="revocation.wanted",
                actor=actor,
                subject=secret,
                cert_id=row["id"],
                detail={"generation": row["generation"], "reason": reason, "at_once": at_once},
            )
            served = await tx.row("served", [secret])
            if served is not None and served["id"] == row["id"]:
                rotation = await rotations.open_in(tx, secret, reason=Reason.REVOKED, actor=actor)
            await feed.tell_work(tx)
        (revocation,) = await _read(tx, None, [row["id"]])
    return Wanted(revocation, rotation)


async def claim(database: Database, *, hold_for: timedelta) -> Claim | None:
    """Take one that the CA may be asked for, and keep it from others for a while; None: there is none."""
    async with database.transaction() as tx:
        row = await tx.row("claim_revocation", hold_for)
    if row is None:
        return None
    return Claim(CertificateId(row["cert_id"]), RevocationReason(row["reason"]), row["attempts"])


async def done(database: Database, cert_id: CertificateId, *, actor: str) -> None:
    """The CA has revoked it: from now on it is served to nobody who does not have it."""
    async with database.transaction() as tx:
        secret: str = await tx.value("lock_secret_of", cert_id)
        reason = await tx.value("revocation_done", cert_id)
        if reason is None:
            return  # two replicas asked: an answer that comes twice means nothing new
        await certificates.move(
            tx, cert_id, Event.REVOKED, actor=actor, subject=secret, detail={"reason": reason}
        )
        await feed.tell_secret(tx, secret)


async def found(
    tx: Transaction,
    cert_id: CertificateId,
    *,
    code: str | None,
    said: str,
    by: str,
    uploaded: bool,
    actor: str,
) -> bool:
    """Take the CA's word (``by`` ocsp or crl) that a Certificate is revoked; False: that is known already.

    It is offered to nobody any more, as one that we had revoked, and where it is what a Secret is served
    with a Rotation brings its successor, unless it was ``uploaded``: then the one before is served on where
    it has not gone to all. Proxies that have it serve on meanwhile.
    """
    secret: str = await tx.value("lock_secret_of", cert_id)
    served = await tx.row("served", [secret])
    why = next((known for known in RevocationReason if known == code), RevocationReason.UNSPECIFIED)
    await tx.rows("want_revocation", cert_id, why, True)  # noqa: FBT003 - a column
    if await tx.value("revocation_done", cert_id) is None:
        return False
    if served is not None and served["id"] == cert_id and not uploaded:
        await rotations.open_in(tx, secret, reason=Reason.REVOKED, actor=actor)
    elif uploaded:
        error = {
            "what": f"its CA revoked it while it was rolled out: {said}",
            "rule": "revoked",
            "hint": f"upload another pair: `certvoy upload {secret}`; the one before is served on",
        }
        await rotations.take_back(tx, secret, cert_id, error=error, actor=actor)
    detail = {"reason": why, "by": by, "said": said}
    await certificates.move(tx, cert_id, Event.REVOKED, actor=actor, subject=secret, detail=detail)
    await feed.tell_secret(tx, secret)
    await feed.tell_work(tx)
    return True


async def failed(
    database: Database, cert_id: CertificateId, *, error: Mapping[str, Any], pause: timedelta, actor: str
) -> None:
    """Put it back with the reason; the CA is asked again after ``pause``."""
    async with database.transaction() as tx:
        secret: str = await tx.value("lock_secret_of", cert_id)
        if await tx.value("revocation_failed", cert_id, dict(error), pause) is None:
            return
        await audit.append(
            tx,
            action="revocation.failed",
            actor=actor,
            subject=secret,
            cert_id=cert_id,
            detail={"error": error},
        )


async def of_secret(database: Database, secret: str) -> Sequence[Revocation]:
    """Return those of one Secret, newest generation first."""
    async with database.transaction() as tx:
        return await _read(tx, secret, None)


async def of_certificates(
    database: Database, cert_ids: Collection[CertificateId]
) -> Mapping[CertificateId, Revocation]:
    """Return those of these Certificates; one that nobody wanted revoked is missing."""
    async with database.transaction() as tx:
        return {found.cert_id: found for found in await _read(tx, None, cert_ids)}


def _refuse(secret: str, row: Row) -> None:
    if row["issuer"].startswith(UPLOADED):
        raise Conflict(
            f"secret {secret}: generation {row['generation']} was uploaded: no account of ours ordered it",
            hint="revoke it at its own CA; another upload, or a rotation, replaces it here",
        )
    if row["status"] == CertificateStatus.EXPIRED:
        raise Conflict(
            f"secret {secret}: generation {row['generation']} has expired: nobody accepts it any more",
            hint="nothing is to be done",
        )


async def _read(
    tx: Transaction, secret: str | None, cert_ids: Collection[CertificateId] | None
) -> list[Revocation]:
    limit = LISTED if cert_ids is None else len(cert_ids)
    rows = await tx.rows("revocations", secret, None if cert_ids is None else list(cert_ids), limit)
    return [_revocation(row) for row in rows]


def _revocation(row: Row) -> Revocation:
    return Revocation(
        cert_id=CertificateId(row["cert_id"]),
        secret=SecretName(row["secret"]),
        generation=row["generation"],
        status=CertificateStatus(row["status"]),
        reason=RevocationReason(row["reason"]),
        at_once=row["at_once"],
        ready=row["ready"],
        wanted_at=row["wanted_at"],
        attempts=row["attempts"],
        next_attempt_at=row["next_attempt_at"],
        error=row["error"],
        done_at=row["done_at"],
    )
