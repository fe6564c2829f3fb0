"""Rotations: opened, claimed under a Lease, failed, taken back, ended. `issuances` stores what they bring.

Every transaction locks the Secret's row first. Every write of a worker quotes its Lease; without one it is
`StaleLease`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from acme_engine import renewal
from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict, NotFound, StaleLease
from sds_server.inventory import audit, certificates, feed, freezes, secrets, voices
from sds_server.inventory import guilty as failed_names
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.retirement import KEPT_FOR
from sds_server.lifecycle import rollout
from sds_server.lifecycle.rollout import WayBack
from sds_server.lifecycle.states import Event
from sds_server.model import (
    UPLOAD,
    CertificateId,
    Kind,
    Lease,
    LeaseNo,
    Outcome,
    Reason,
    RotationId,
    SecretName,
    Stage,
)

WINDOW: Final = 64
"""How many Rotations a worker chooses from: more than there are workers, each of which holds one for moments.

With all that wait to choose from, each claim would cost more the more there are.
"""

TRIES: Final = 8
"""How often a worker whom another was quicker than looks again, before it waits for the next poll."""

LONGEST_DUE: Final = 20
"""For each renewal that is opened at once, so many are looked at for the nearest expiry."""


ANY_NUMBER: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Claim:
    """A Rotation that this worker may work on."""

    lease: Lease
    reason: Reason
    issuer: str
    replaces: CertificateId | None
    attempts: int
    by_hand: bool = False
    """A person asked for it, when it was opened or since."""


async def open_for(database: Database, secret: str, *, reason: Reason, actor: str) -> RotationId:
    """Open a Rotation for the Secret, or hasten the one that waits for its next attempt.

    Raises:
        NotFound: there is no such Secret.
        Conflict: its pairs are uploaded, so that no CA has its next one; or it is frozen.
    """
    async with database.transaction() as tx:
        found = await secrets.lock(tx, secret)
        if found.kind is not Kind.TLS_CERTIFICATE:
            raise Conflict(
                f"secret {secret}: it is a {found.kind}, which no CA issues",
                hint="put its next version: `certvoy trust`, `certvoy tickets` or `certvoy generic`",
            )
        if found.issuer == UPLOAD:
            raise Conflict(
                f"secret {secret}: its pairs are uploaded, and not ordered from a CA",
                hint=f"upload the next one: `certvoy upload {secret} --chain FILE --private-key FILE`; or "
                f"let a CA have it from now on: `certvoy issue {secret} --domain DOMAIN --issuer ISSUER`",
            )
        await freezes.check_in(tx, secret)
        return await open_in(tx, secret, reason=reason, actor=actor)


async def open_in(
    tx: Transaction,
    secret: str,
    *,
    reason: Reason,
    actor: str,
    why: str | None = None,
    starts_at: datetime | None = None,
) -> RotationId:
    """As `open_for`, in a transaction that holds the Secret's lock; ``why``: of a renewal, why now.

    ``starts_at``: before that nothing is ordered for it; None: at once.

    ``Reason.CHANGED`` and ``UPLOADED`` take the one that waits from its worker, with its order: what comes
    next begins anew.
    One that is being rolled out is superseded: its new Certificate, not proved everywhere yet, is replaced in
    its turn.
    """
    under_way = await tx.row("open_rotation", secret)
    rolling_out = await tx.row("roll_out", secret)
    if rolling_out is not None and _staged(rolling_out):
        # All but a few have never had it: what they are moved on from is the one before.
        error = {
            "what": "another certificate was wanted before the canaries had proved this one",
            "rule": "superseded",
            "hint": "nothing to do: the next attempt is under way",
        }
        await take_back(tx, secret, rolling_out["new_cert_id"], error=error, actor=actor)
        under_way = await tx.row("open_rotation", secret)
    if under_way is not None and under_way["new_cert_id"] is None:
        if reason in {Reason.CHANGED, Reason.UPLOADED}:
            # What a worker has under way is not what is wanted now: another issuer, another type of key.
            await tx.rows("take_rotation_back", under_way["id"])
            await abandon_orders(tx, under_way["id"])
        else:
            await tx.rows("hasten_rotation", under_way["id"], reason is Reason.OPERATOR)
        detail = {"rotation": under_way["id"], "reason": reason}
        await audit.append(tx, action="rotation.hastened", actor=actor, subject=secret, detail=detail)
        await feed.tell_work(tx)
        return RotationId(under_way["id"])
    if under_way is not None:
        await end(tx, under_way, Outcome.SUPERSEDED, Event.SUPERSEDED, actor=actor, secret=secret)
    current = await tx.row("current_certificate", secret)
    cert_id = None if current is None else CertificateId(current["id"])
    if cert_id is not None:
        await certificates.move(tx, cert_id, Event.DUE, actor=actor, subject=secret)
    rotation = RotationId(await tx.value("insert_rotation", secret, cert_id, reason, starts_at))
    crashpoint("rotation.opening")
    await audit.append(
        tx,
        action="rotation.opened",
        actor=actor,
        subject=secret,
        cert_id=cert_id,
        detail={"rotation": rotation, "reason": reason} | ({} if why is None else {"why": why}),
    )
    await feed.tell_work(tx)
    return rotation


async def open_due(database: Database, *, limit: int, actor: str) -> int:
    """Open a Rotation for each Certificate whose renewal is due, nearest expiry first; say for how many."""
    opened = 0
    async with database.transaction() as tx:
        for row in await tx.rows("due_renewals", limit, limit * LONGEST_DUE):
            # The row was read before its Secret was locked: somebody may have been at it since.
            if await tx.value("still_due", row["id"]):
                await open_in(
                    tx,
                    row["secret"],
                    reason=Reason.RENEWAL,
                    actor=actor,
                    why=row["renew_reason"],
                    starts_at=_starts_at(row),
                )
                opened += 1
    return opened


async def claim(
    database: Database, *, replica: str, lease_for: timedelta, in_flight: Mapping[str, int] = ANY_NUMBER
) -> Claim | None:
    """Take the most urgent Rotation that wants a worker; None: there is none.

    ``in_flight``: so many of an issuer are worked on at once at most, by all replicas together, besides those
    that wait for DNS.
    """
    for _ in range(TRIES):
        # Each in a transaction of its own: who waits for its turn at one issuer keeps nobody from another.
        async with database.transaction() as tx:
            found = await tx.row("claimable", WINDOW, list(in_flight), list(in_flight.values()))
            if found is None:
                return None
            if (most := in_flight.get(found["issuer"])) is not None:
                # One at a time counts, until it has committed: two would take the last place together.
                await tx.rows("lock_claims", found["issuer"])
                if await tx.value("claimed_of", found["issuer"]) >= most:
                    continue
            # It was read before its Secret was locked: somebody may have claimed it since.
            claimed = await claim_in(tx, found["id"], replica=replica, lease_for=lease_for)
            if claimed is not None:
                return claimed
    return None


async def claim_this(
    database: Database, secret: str, rotation: RotationId, *, replica: str, lease_for: timedelta
) -> Claim | None:
    """Take this Rotation of the Secret; None: it wants no worker now, or its CA is left alone.

    Raises:
        NotFound: there is no such Secret.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        if await tx.value("secret_is_paused", secret):
            return None
        return await claim_in(tx, rotation, replica=replica, lease_for=lease_for)


async def claim_in(
    tx: Transaction, rotation: RotationId, *, replica: str, lease_for: timedelta
) -> Claim | None:
    """Take this Rotation, in a transaction that holds its Secret's lock; None: it wants no worker now."""
    row = await tx.row("claim", rotation, replica, lease_for)
    if row is None:
        return None
    crashpoint("rotation.claiming")
    actor = f"replica:{replica}"
    await audit.append(
        tx,
        action="rotation.claimed",
        actor=actor,
        subject=row["secret"],
        cert_id=row["cert_id"],
        detail={"rotation": row["id"], "lease_no": row["lease_no"]},
    )
    if row["cert_id"] is not None:
        await certificates.move(tx, row["cert_id"], Event.CLAIMED, actor=actor, subject=row["secret"])
    lease = Lease(
        rotation=RotationId(row["id"]),
        secret=SecretName(row["secret"]),
        number=LeaseNo(row["lease_no"]),
        until=row["leased_until"],
    )
    return Claim(
        lease=lease,
        reason=Reason(row["reason"]),
        issuer=row["issuer"],
        replaces=row["cert_id"],
        attempts=row["attempts"],
        by_hand=row["by_hand"],
    )


async def extend(database: Database, lease: Lease, *, lease_for: timedelta) -> None:
    """Keep the Lease for longer.

    Raises:
        StaleLease: it has run out, or another worker has it.
    """
    async with database.transaction() as tx:
        if await tx.value("extend_lease", lease.rotation, lease.number, lease_for) is None:
            raise stale(lease)


async def wait_for_dns(database: Database, lease: Lease, *, waits: bool) -> None:
    """Note that the attempt waits for DNS, or does no more: while it does, it is not in flight at its issuer.

    Raises:
        StaleLease: it has run out, or another worker has it.
    """
    async with database.transaction() as tx:
        if await tx.value("wait_for_dns", lease.rotation, lease.number, waits) is None:
            raise stale(lease)


async def hold(tx: Transaction, lease: Lease) -> Row:
    """Lock the Secret and the Rotation for a write under the Lease; returns the Rotation's id and cert_id.

    Raises:
        StaleLease: the Lease has run out, another worker has it, or the Secret is deleted.
    """
    try:
        await secrets.lock(tx, lease.secret)
    except NotFound as e:
        raise stale(lease) from e
    row = await tx.row("hold_lease", lease.rotation, lease.number)
    if row is None:
        raise stale(lease)
    return row


async def release(database: Database, lease: Lease) -> None:
    """Give the Lease back in the middle of the work: any other worker goes on with the same order, at once.

    Raises:
        StaleLease: it has run out, or another worker has it.
    """
    async with database.transaction() as tx:
        await hold(tx, lease)
        await tx.rows("release_lease", lease.rotation)
        await tx.rows("clear_challenges", lease.rotation)
        await feed.tell_work(tx)


async def fail(
    database: Database,
    lease: Lease,
    *,
    error: Mapping[str, Any],
    pause: timedelta | None,
    abandon_order: bool = False,
    counted: bool = True,
    guilty: Collection[tuple[str, str]] = (),
    issuer: str = "",
    actor: str,
) -> None:
    """Put the Rotation back with its reason.

    The next attempt comes after ``pause``; None: when a person asks for it. ``abandon_order``: it will begin
    with a new order and a new key. ``counted``: the pauses after the next failures are longer; not where
    nothing could have succeeded. ``guilty``: names that ``issuer`` could not validate, each with the type of
    its problem.

    Raises:
        StaleLease: another worker has the Rotation; nothing was written.
    """
    async with database.transaction() as tx:
        row = await hold(tx, lease)
        await tx.rows("rotation_failed", lease.rotation, dict(error), pause, counted)
        if abandon_order:
            await abandon_orders(tx, lease.rotation)
        await tx.rows("clear_challenges", lease.rotation)
        await failed_names.note(tx, issuer, guilty)
        if row["cert_id"] is not None:
            await certificates.move(tx, row["cert_id"], Event.FAILED, actor=actor, subject=lease.secret)
        await audit.append(
            tx,
            action="rotation.failed",
            actor=actor,
            subject=lease.secret,
            cert_id=row["cert_id"],
            detail={"rotation": lease.rotation, "error": error},
        )


async def abandon_orders(tx: Transaction, rotation: int) -> None:
    """Give up the Rotation's order, in a transaction that holds its Secret's lock.

    What it took of its CA's limits for a certificate is given back, if it was not finalized.
    """
    await tx.rows("abandon_orders", rotation, KEPT_FOR)
    await tx.rows("lock_reserved_buckets", rotation)
    await tx.rows("give_back", rotation)


async def take_back(
    tx: Transaction, secret: str, cert_id: CertificateId, *, error: Mapping[str, Any], actor: str
) -> bool:
    """Give up a Certificate that is being rolled out, in a transaction that holds the Secret's lock.

    The one before is current again, and the Rotation tries once more, after a pause. Returns False where the
    Certificate is no longer being rolled out.
    """
    row = await tx.row("rotation_of_new", cert_id)
    if row is None:
        return False
    await tx.rows("lock_deliveries", secret)
    await certificates.move(tx, cert_id, Event.REJECTED, actor=actor, subject=secret)
    if row["cert_id"] is not None:
        await certificates.move(tx, row["cert_id"], Event.FAILED, actor=actor, subject=secret)
    await tx.rows("rotation_rejected", row["id"], dict(error), rollout.pause(max(row["attempts"], 1)))
    await tx.rows("forget_canaries", row["id"])
    await tx.rows("offer_plainly", secret)
    await tx.rows("forget_proofs", secret, row["generation"])
    await tx.rows("forget_looks", secret)
    crashpoint("certificate.rejecting")
    await audit.append(
        tx,
        action="rotation.rolled_back",
        actor=actor,
        subject=secret,
        cert_id=cert_id,
        detail={"rotation": row["id"], "error": error},
    )
    await feed.tell_secret(tx, secret)
    await feed.tell_work(tx)
    return True


async def end(
    tx: Transaction,
    rotation: Row,
    outcome: Outcome,
    event: Event,
    *,
    actor: str,
    secret: str,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Close the Rotation with this outcome; ``event`` happens to the Certificate that it replaced.

    ``evidence``: what a completion rests on.
    """
    await tx.rows("end_rotation", rotation["id"], outcome, None if evidence is None else dict(evidence))
    await tx.rows("forget_canaries", rotation["id"])
    if rotation["cert_id"] is not None:
        await certificates.move(tx, rotation["cert_id"], event, actor=actor, subject=secret)
    await audit.append(
        tx,
        action=f"rotation.{outcome}",
        actor=actor,
        subject=secret,
        cert_id=rotation["new_cert_id"],
        detail={"rotation": rotation["id"]} | ({} if evidence is None else {"evidence": evidence}),
    )


def _starts_at(row: Row) -> datetime | None:
    """Return when the order of a renewal is made; None: at once.

    A Certificate is due at the moment that the policy says; only the work is spread, and only where that
    moment is the policy's own, and no CA's wish.
    """
    dates = {"not_before": row["not_before"], "not_after": row["not_after"]}
    if row["renew_at"] != renewal.due(**dates):
        return None
    at: datetime = row["renew_at"] + renewal.spread(**dates, jitter=renewal.jitter(row["id"]))
    return at


def _staged(rolling_out: Row) -> bool:
    """Whether only canaries have the new Certificate, and all others one that may be served still."""
    return rolling_out["stage"] == Stage.CANARY and voices.way_back(rolling_out) is not WayBack.NONE


def stale(lease: Lease) -> StaleLease:
    """Return what a worker is told that has lost its Lease."""
    return StaleLease(f"rotation {lease.rotation}: lease {lease.number} is over")
