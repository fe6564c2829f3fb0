"""Stored certificates for tests of the inventory: real pairs, sealed for real, without a CA's protocol."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from acme_engine import chain as chains
from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.inventory import declarations, deployment, issuances, orders, rotations
from sds_server.inventory.database import Database
from sds_server.inventory.rotations import Claim
from sds_server.inventory.staples import First
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.model import (
    Certificate,
    CertificateId,
    CertificateStatus,
    KeyId,
    KeyType,
    Kind,
    Secret,
    SecretName,
)
from tests.support.pki import Authority, Pair, authority

LEASE = timedelta(seconds=60)


def secret(name: str = "www", domains: Sequence[str] = ("www.example.test",)) -> Secret:
    return Secret(
        name=SecretName(name),
        kind=Kind.TLS_CERTIFICATE,
        domains=tuple(domains),
        issuer="internal",
        key_type=KeyType.ECDSA_P256,
    )


@dataclass
class Issuances:
    """Issues from a test CA straight into the inventory."""

    database: Database
    sealer: Sealer
    ca: Authority
    responder: str | None = None
    """The OCSP responder that leaves name from now on."""

    must_staple: bool = False
    crl: str | None = None
    """The revocation list that leaves name from now on."""

    @classmethod
    async def open(cls, database: Database, directory: Path) -> "Issuances":
        identity, _ = await deployment.identify(database)
        kms = LocalKms(directory / "kek", create=True)
        return cls(database, Sealer(kms, deployment=identity, clock=SystemClock()), authority("test CA"))

    async def declare(self, name: str = "www", domains: Sequence[str] = ("www.example.test",)) -> Secret:
        declared = secret(name, domains)
        await declarations.put(self.database, declared, actor="person:test")
        return declared

    async def claim(self, replica: str = "a", lease_for: timedelta = LEASE) -> Claim:
        claim = await rotations.claim(self.database, replica=replica, lease_for=lease_for)
        assert claim is not None
        return claim

    async def store(
        self,
        claim: Claim,
        declared: Secret,
        *,
        chain_of: Pair | None = None,
        days: float = 90,
        first_staple: Callable[[chains.Chain], Awaitable[First | None]] | None = None,
    ) -> Certificate:
        """Store a new pair under the claim; ``chain_of``: its chain instead, as a broken restore would."""
        pair = self.ca.issue(
            dns=list(declared.domains),
            days=days,
            responder=self.responder,
            must_staple=self.must_staple,
            crl=self.crl,
        )
        sealed = await self.sealer.seal(
            keys.pkcs8(pair.key),
            key_id=KeyId(uuid4()),
            purpose="leaf",
            spki_sha256=keys.spki_sha256(pair.key.public_key()),
        )
        order = await orders.plan(
            self.database, claim.lease, declared, csr=b"csr", key=sealed, actor="replica:test"
        )
        chain = chains.parse((chain_of or pair).chain_pem)
        certificate = Certificate(
            id=CertificateId(uuid4()),
            secret=declared.name,
            generation=0,
            status=CertificateStatus.ISSUED,
            domains=declared.domains,
            issuer=declared.issuer,
            serial_number=chain.serial_number,
            not_before=chain.not_before,
            not_after=chain.not_after,
            fingerprint=chain.fingerprint,
            key_id=order.key_id,
            key_ref=sealed.key_ref,
            chain_pem=chain.pem,
            renew_at=datetime.now(UTC) + timedelta(days=days * 2 / 3),
        )
        await issuances.store(
            self.database,
            claim.lease,
            certificate,
            spki_sha256=sealed.spki_sha256,
            order_url=None,
            renew_reason="test",
            actor="replica:test",
            roots=[self.ca.certificate],
            first_staple=None if first_staple is None else await first_staple(chain),
        )
        return certificate

    async def issue(self, declared: Secret) -> Certificate:
        """Claim what is open and store its next certificate."""
        return await self.store(await self.claim(), declared)
