"""What a broken restore or a hand-written UPDATE does: a chain in the inventory that is another's.

Only the demo and tests come here. The schema refuses rows that name different keys; it cannot read a chain.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from acme_engine import chain as chains
from acme_engine import keys
from sds_server.errors import NotFound, StaleLease
from sds_server.inventory import certificates, issuances, rotations, secrets
from sds_server.inventory.database import Database
from sds_server.model import CertificateId, Reason

ACTOR = "person:saboteur"


class Flaw(StrEnum):
    """What is wrong with a broken pair."""

    KEY = "key"
    """Its leaf was issued for another key."""

    NAMES = "names"
    """Its leaf is for its key, and for somebody else's names."""


async def store_mismatched_pair(database: Database, name: str) -> None:
    """Make the next generation of a Secret one whose chain is not its key's, past every check before."""
    await store_broken_pair(database, name, Flaw.KEY)


async def store_broken_pair(database: Database, name: str, flaw: Flaw) -> None:
    """Make the next generation of a Secret one that must never be served, past every check before."""
    secret = await secrets.get(database, name)
    served = await certificates.served(database, [name])
    cert_id = served[name].cert_id
    if cert_id is None:
        raise NotFound(f"secret {name}: it has no certificate yet")
    (pair,) = await certificates.pairs(database, [cert_id])
    chain = chains.parse(_broken(flaw, secret.domains, chains.parse(pair.certificate.chain_pem).leaf))
    async with database.transaction() as tx:
        await secrets.lock(tx, name)
        rotation = await rotations.open_in(tx, name, reason=Reason.OPERATOR, actor=ACTOR)
        claim = await rotations.claim_in(tx, rotation, replica=ACTOR, lease_for=timedelta(minutes=1))
    if claim is None:
        raise StaleLease(f"rotation {rotation}: a worker is at it already")
    await issuances.store(
        database,
        claim.lease,
        replace(
            pair.certificate,
            id=CertificateId(uuid4()),
            serial_number=chain.serial_number,
            not_before=chain.not_before,
            not_after=chain.not_after,
            fingerprint=chain.fingerprint,
            chain_pem=chain.pem,
            renew_at=chain.not_after,
        ),
        spki_sha256=pair.key.spki_sha256,
        order_url=None,
        renew_reason="sabotage",
        actor=ACTOR,
    )


def _broken(flaw: Flaw, domains: tuple[str, ...], served: x509.Certificate) -> bytes:
    key = keys.generate(keys.KeyType.ECDSA_P256)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else's")])
    names = domains if flaw is Flaw.KEY else ("somebody-else.test",)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key() if flaw is Flaw.KEY else served.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=6))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
