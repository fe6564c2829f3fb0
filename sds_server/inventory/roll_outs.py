"""Roll-outs: Rotations whose new Certificate is stored, until every Target is proved to serve it.

Every transaction locks the Secret's row first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sds_server.inventory import audit, certificates, feed, rotations, secrets
from sds_server.inventory.database import Database, Row
from sds_server.lifecycle.states import Event
from sds_server.model import CertificateId, Outcome, RotationId, SecretName

REJECTED_PAUSE: Final = timedelta(minutes=1)
"""A rejected Certificate cost the CA an order: the next attempt waits, longer each time."""


@dataclass(frozen=True, slots=True)
class RollOut:
    """An open Rotation whose new Certificate is stored: what its Targets must be proved to serve."""

    rotation: RotationId
    secret: SecretName
    cert_id: CertificateId | None
    new_cert_id: CertificateId
    generation: int
    fingerprint: str
    age: timedelta
    """How long ago the new Certificate was stored, when this was read."""

    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RollingOut:
    """A Rotation whose new Certificate is not yet proved everywhere."""

    rotation: RotationId
    secret: SecretName


async def page(database: Database, *, after: RotationId, limit: int) -> Sequence[RollingOut]:
    """Return what is being rolled out, oldest first, beginning behind a Rotation and then from the start."""
    async with database.transaction() as tx:
        return [
            RollingOut(rotation=RotationId(row["id"]), secret=SecretName(row["secret"]))
            for row in await tx.rows("rolling_out", after, limit)
        ]


async def get(database: Database, secret: str) -> RollOut | None:
    """Return what the Secret's Targets must be proved to serve; None: nothing is being rolled out."""
    async with database.transaction() as tx:
        row = await tx.row("roll_out", secret)
    return None if row is None else _roll_out(secret, row)


async def confirm(
    database: Database, roll_out: RollOut, *, proved: Iterable[int], actor: str, unobserved: bool = False
) -> Outcome | None:
    """Write that these Targets are proved to serve the new Certificate; complete if none is missing.

    ``unobserved`` says that an empty live set may be believed: the Rotation is then complete, but nobody saw
    it. The live set is read in this transaction, so a Target that came meanwhile keeps the Rotation open.
    Returns the outcome, or None while the Rotation stays open.
    """
    secret = roll_out.secret
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        now = await tx.row("roll_out", secret)
        if now is None or now["new_cert_id"] != roll_out.new_cert_id:
            return None
        for target in sorted(proved):  # in the order in which `deliveries.write` locks the same rows
            if await tx.value("prove_delivery", target, secret, roll_out.generation):
                await certificates.move(
                    tx, roll_out.new_cert_id, Event.CONFIRMED, actor=actor, subject=secret
                )
                await audit.append(
                    tx,
                    action="delivery.proved",
                    actor=actor,
                    subject=secret,
                    cert_id=roll_out.new_cert_id,
                    detail={"target": target, "generation": roll_out.generation, "by": "handshake"},
                )
        live = await tx.rows("live_set", secret)
        if any((row["proved"] or 0) < roll_out.generation for row in live):
            return None
        if not live and not unobserved:
            return None
        outcome = Outcome.COMPLETED if live else Outcome.COMPLETED_UNOBSERVED
        await certificates.move(tx, roll_out.new_cert_id, Event.CONFIRMED, actor=actor, subject=secret)
        await rotations.end(
            tx,
            {"id": roll_out.rotation, "cert_id": roll_out.cert_id, "new_cert_id": roll_out.new_cert_id},
            outcome,
            Event.COMPLETED,
            actor=actor,
            secret=secret,
        )
        await feed.tell_secret(tx, secret)
    return outcome


async def reject(
    database: Database, secret: str, cert_id: CertificateId, *, error: Mapping[str, Any], actor: str
) -> bool:
    """Give a Certificate up that must not be served.

    The one before is current again, and the Rotation tries once more. Returns False where the Certificate is
    no longer being rolled out.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        row = await tx.row("rotation_of_new", cert_id)
        if row is None:
            return False
        await certificates.move(tx, cert_id, Event.REJECTED, actor=actor, subject=secret)
        if row["cert_id"] is not None:
            await certificates.move(tx, row["cert_id"], Event.FAILED, actor=actor, subject=secret)
        pause = REJECTED_PAUSE * max(row["attempts"], 1)
        await tx.rows("rotation_rejected", row["id"], dict(error), pause)
        await audit.append(
            tx,
            action="rotation.failed",
            actor=actor,
            subject=secret,
            cert_id=cert_id,
            detail={"rotation": row["id"], "error": error},
        )
        await feed.tell_secret(tx, secret)
        await feed.tell_work(tx)
    return True


def _roll_out(secret: str, row: Row) -> RollOut:
    return RollOut(
        rotation=RotationId(row["id"]),
        secret=SecretName(secret),
        cert_id=row["cert_id"],
        new_cert_id=CertificateId(row["new_cert_id"]),
        generation=row["generation"],
        fingerprint=row["fingerprint"],
        age=row["age"],
        domains=tuple(row["domains"]),
    )
