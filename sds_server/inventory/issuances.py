"""Issuances: a Rotation's new Certificate, stored under its Lease; with that its roll-out begins."""

from collections.abc import Sequence

from cryptography import x509

from acme_engine import chain as chains
from sds_server.crashpoint import crashpoint
from sds_server.crls.content import point_of
from sds_server.errors import StaleLease
from sds_server.inventory import audit, crls, feed, roll_outs, rotations, secrets, staples
from sds_server.inventory.database import Database, Transaction
from sds_server.inventory.staples import First
from sds_server.model import UPLOAD, Certificate, Lease
from sds_server.staples.response import must_staple, responder_of


async def store(
    database: Database,
    lease: Lease,
    certificate: Certificate,
    *,
    spki_sha256: bytes,
    order_url: str | None,
    renew_reason: str,
    actor: str,
    roots: Sequence[x509.Certificate] = (),
    first_staple: First | None = None,
) -> int:
    """Store the Rotation's new Certificate in one transaction, and return the generation that it became.

    Its ``generation`` and ``status`` are given by the inventory. ``roots`` are those of its issuer: who
    signed it may be one of them, and its responder is asked in that one's name. ``first_staple``: what that
    has said already.

    Raises:
        StaleLease: another worker has the Rotation; nothing was written.
    """
    async with database.transaction() as tx:
        return await store_in(
            tx,
            lease,
            certificate,
            spki_sha256=spki_sha256,
            order_url=order_url,
            renew_reason=renew_reason,
            actor=actor,
            roots=roots,
            first_staple=first_staple,
        )


async def store_in(
    tx: Transaction,
    lease: Lease,
    certificate: Certificate,
    *,
    spki_sha256: bytes,
    order_url: str | None,
    renew_reason: str,
    actor: str,
    roots: Sequence[x509.Certificate] = (),
    first_staple: First | None = None,
) -> int:
    """As `store`, in a transaction of the caller's."""
    secret = await secrets.lock(tx, lease.secret)
    if secret.domains != certificate.domains:
        raise StaleLease(f"secret {secret.name}: its names changed while the order was under way")
    await rotations.hold(tx, lease)
    generation: int = await tx.value(
        "insert_certificate",
        certificate.id,
        certificate.domains[0],
        list(certificate.domains[1:]),
        certificate.serial_number,
        certificate.not_before,
        certificate.not_after,
        certificate.fingerprint,
        certificate.key_ref,
        certificate.secret,
        certificate.issuer,
        certificate.key_id,
        spki_sha256,
        order_url,
        certificate.renew_at,
        renew_reason,
    )
    await tx.rows("insert_chain", certificate.id, certificate.chain_pem.decode())
    if certificate.issuer != UPLOAD:
        await tx.rows("insert_renewal_info", certificate.id)
    chain = chains.parse(certificate.chain_pem)
    if (responder := responder_of(chain, roots)) is not None:
        await staples.expect_in(
            tx, certificate.id, responder, must=must_staple(chain.leaf), first=first_staple
        )
    if (point := point_of(chain, roots)) is not None:
        await crls.expect_in(tx, certificate.id, certificate.issuer, point)
    await tx.rows("rotation_stored", lease.rotation, certificate.id)
    await tx.rows("orders_stored", lease.rotation)
    await tx.rows("forget_reservations", lease.rotation)
    await tx.rows("clear_challenges", lease.rotation)
    await audit.append(
        tx,
        action="certificate.issued",
        actor=actor,
        subject=lease.secret,
        cert_id=certificate.id,
        detail={
            "rotation": lease.rotation,
            "generation": generation,
            "serial_number": certificate.serial_number,
            "fingerprint": certificate.fingerprint,
            "not_after": certificate.not_after.isoformat(),
            "issuer": certificate.issuer,
        },
    )
    crashpoint("certificate.storing")
    await roll_outs.begin(tx, lease.secret, lease.rotation, certificate.id, actor=actor)
    await feed.tell_secret(tx, lease.secret)
    return generation
