"""Uploaded pairs: Secret, Rotation, key and Certificate in one transaction, so that none is half there."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

from sds_server.errors import Conflict, GateRefused
from sds_server.inventory import declarations, freezes, issuances, rotations, sealed_keys, secrets
from sds_server.inventory.database import Database, Transaction
from sds_server.model import Certificate, KeyHolder, Reason, SealedKey, Secret

LEASE: Final = timedelta(minutes=1)
"""Of the Rotation, which is claimed and stored in one transaction: its end is never seen."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of an upload: the Secret was created for it, or the pair is what is served already."""

    created: bool
    unchanged: bool


async def store(
    database: Database,
    secret: Secret,
    certificate: Certificate,
    key: SealedKey,
    *,
    renew_reason: str,
    replica: str,
    actor: str,
) -> Uploaded:
    """Store a pair that has passed the gate as the next generation; where there is none, create ``secret``.

    Raises:
        Conflict: the certificate is in the inventory already, or the Secret is frozen or has other names now.
        GateRefused: its key was revoked as compromised.
    """
    try:
        async with database.transaction() as tx:
            return await _store(
                tx, secret, certificate, key, renew_reason=renew_reason, replica=replica, actor=actor
            )
    except asyncpg.UniqueViolationError as e:
        if e.constraint_name != "certificate_issuer_serial_number_key":
            raise
        # Two uploads of one certificate under two names: each looked before the other was committed.
        raise Conflict(
            f"secret {secret.name}: the certificate was stored under another name just now",
            hint="one certificate belongs to one secret",
        ) from e


async def _store(
    tx: Transaction,
    secret: Secret,
    certificate: Certificate,
    key: SealedKey,
    *,
    renew_reason: str,
    replica: str,
    actor: str,
) -> Uploaded:
    row = await tx.row("lock_secret", secret.name)
    if row is None:
        created = await declarations.put_in(tx, secret, actor=actor) is not None
    elif secrets.from_row(row).domains != certificate.domains:
        raise Conflict(f"secret {secret.name}: its names were changed meanwhile", hint="try again")
    elif secrets.from_row(row).key_holder is KeyHolder.TARGET:
        raise Conflict(
            f"secret {secret.name}: its private keys are made by its target, and none may be brought",
            hint="declare it with `key_holder: certvoy` first",
        )
    else:
        created = False
    if await _is_served(tx, certificate):
        return Uploaded(created=created, unchanged=True)
    if row is not None:
        await freezes.check_in(tx, secret.name)
    if compromised := await tx.row("compromised_key", key.spki_sha256):
        where = f"generation {compromised['generation']} of {compromised['secret']}"
        raise GateRefused("key", f"{where} was revoked because this key is lost", hint="make a new key")
    rotation = await rotations.open_in(tx, secret.name, reason=Reason.UPLOADED, actor=actor)
    claim = await rotations.claim_in(tx, rotation, replica=replica, lease_for=LEASE)
    assert claim is not None  # noqa: S101 - we hold the Secret's lock, and nobody has a Lease
    await sealed_keys.insert(tx, key)
    await issuances.store_in(
        tx,
        claim.lease,
        certificate,
        spki_sha256=key.spki_sha256,
        order_url=None,
        renew_reason=renew_reason,
        actor=actor,
    )
    return Uploaded(created=created, unchanged=False)


async def _is_served(tx: Transaction, certificate: Certificate) -> bool:
    """Whether it is what its Secret is served with.

    Raises:
        Conflict: it is another generation, or another Secret's, or came with another chain.
    """
    same = await tx.row(
        "same_certificate", certificate.fingerprint, certificate.issuer, certificate.serial_number
    )
    if same is None:
        return False
    served = await tx.row("served", [certificate.secret])
    if served is not None and served["id"] == same["id"]:
        if same["chain_pem"].encode() != certificate.chain_pem:
            raise Conflict(
                f"secret {certificate.secret}: the certificate is here already, as generation"
                f" {same['generation']}, with another chain",
                hint="the chain of a certificate stays as it came: have it issued anew, and upload that",
            )
        return True
    raise Conflict(
        f"secret {certificate.secret}: the certificate is here already, as generation {same['generation']} of"
        f" {same['secret']}, which is {same['status']}",
        hint="upload a new certificate; one belongs to one secret, and does not come back",
    )
