"""The control plane's own CA at work: makes itself once, gives proxies their credentials, renews them."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from acme_engine import keys
from acme_engine.hidden import Hidden
from sds_server import authority
from sds_server.authority import Ca, Credential, PublicKey
from sds_server.clock import Clock
from sds_server.errors import CustodyError, Unauthenticated
from sds_server.inventory import control_cas, proxies, sealed_keys
from sds_server.inventory.control_cas import ControlCa
from sds_server.inventory.database import Database
from sds_server.inventory.proxies import GrantedName, Proxy
from sds_server.keys.kms import Sealer
from sds_server.log import get
from sds_server.model import Identity, KeyId

PURPOSE: Final = "control-ca"
SERVER_LIFETIME: Final = timedelta(days=30)
TOKEN_BYTES: Final = 32

_log = get("enrolment")


@dataclass(frozen=True, slots=True)
class OwnPair:
    """A certificate of the control plane itself, until it is made anew."""

    chain_pem: bytes
    key_pem: Hidden[bytes]
    renew_at: datetime


class Enroller:
    """Signs for one deployment. Its CA's key is opened for each signature and kept nowhere."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        trust_domain: str,
        lifetime: timedelta,
        clock: Clock,
        actor: str,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._trust_domain = trust_domain
        self._lifetime = lifetime
        self._clock = clock
        self._actor = actor

    async def authorities(self) -> Sequence[ControlCa]:
        """Return the CAs that are trusted, oldest first; one, or a successor, is made if need be."""
        now = self._clock.now()
        # Asked before: who makes one after what we see here has made the one that we would make.
        generation = await control_cas.next_generation(self._database)
        found = await control_cas.unexpired(self._database)
        if not found or found[-1].certificate.not_valid_after_utc - now < authority.CA_RENEWED:
            await self._make(generation, now)
            found = await control_cas.unexpired(self._database)
        return found

    async def invite(
        self, name: str, *, granted: Collection[GrantedName], lasts: timedelta, actor: str
    ) -> tuple[Proxy, str, datetime]:
        """Let a proxy enrol once; returns it, the token, and until when that is good.

        Raises:
            CallerError: the name is none.
        """
        identity = authority.proxy_identity(self._trust_domain, name)
        signing = await self._signing()
        token = authority.token_of(secrets.token_urlsafe(TOKEN_BYTES), signing.certificate)
        proxy, ends = await proxies.invite(
            self._database, name, identity=identity, granted=granted, token=token, lasts=lasts, actor=actor
        )
        return proxy, token, ends

    async def enroll(self, token: str, csr: str) -> Credential:
        """Give a proxy its first credential for its one-time token.

        Raises:
            Unauthenticated: the token is worth nothing.
            CallerError: the CSR is; the token can be used again.
        """
        if authority.ca_digest_of(token) is None:
            raise Unauthenticated("this is no enrolment token", hint="get one: `certvoy proxies enroll NAME`")
        key = authority.public_key_of(csr)
        spki = keys.spki_sha256(key)
        proxy = await proxies.invited(self._database, token, spki_sha256=spki)
        made, certificate = await self._issue(key, proxy.identity, proxy.id)
        await proxies.enrolled(
            self._database,
            token,
            proxy,
            spki_sha256=spki,
            until=made.not_after,
            serial=f"{certificate.serial_number:x}",
        )
        _log.info("enrolment.done", proxy=proxy.name, identity=proxy.identity)
        return made

    async def renew(self, identity: Identity, enrolment: int, csr: str) -> Credential:
        """Give the holder of a credential the next one, of the same identity.

        Raises:
            Unauthenticated: the proxy was removed.
            CallerError: the CSR is worth nothing.
        """
        made, certificate = await self._issue(authority.public_key_of(csr), identity, enrolment)
        await proxies.renewed(
            self._database,
            identity,
            enrolment,
            until=made.not_after,
            serial=f"{certificate.serial_number:x}",
        )
        return made

    async def server_pair(self, names: Sequence[str]) -> OwnPair:
        """Make the certificate and key of the control plane's servers."""
        key, now = ec.generate_private_key(ec.SECP256R1()), self._clock.now()
        return _own_pair(
            authority.server_certificate(
                await self._ca(), key.public_key(), names=names, now=now, lifetime=SERVER_LIFETIME
            ),
            key,
        )

    async def caller_pair(self) -> OwnPair:
        """Make the certificate and key by which agents know the control plane that calls them."""
        key, now = ec.generate_private_key(ec.SECP256R1()), self._clock.now()
        return _own_pair(
            authority.caller_certificate(
                await self._ca(),
                key.public_key(),
                trust_domain=self._trust_domain,
                now=now,
                lifetime=self._lifetime,
            ),
            key,
        )

    async def _issue(
        self, key: PublicKey, identity: Identity, enrolment: int
    ) -> tuple[Credential, x509.Certificate]:
        certificate = authority.credential(
            await self._ca(),
            key,
            identity=identity,
            enrolment=enrolment,
            now=self._clock.now(),
            lifetime=self._lifetime,
        )
        trusted = [ca.certificate for ca in await self.authorities()]
        made = Credential(
            identity=identity,
            certificate_pem=authority.pem([certificate]),
            authorities_pem=authority.pem(trusted),
            not_after=certificate.not_valid_after_utc,
        )
        return made, certificate

    async def _signing(self) -> ControlCa:
        chosen = authority.signer(await self.authorities(), now=self._clock.now(), known_after=self._lifetime)
        assert chosen is not None  # noqa: S101 - there is one now
        return chosen

    async def _ca(self) -> Ca:
        signing = await self._signing()
        key = keys.load_pkcs8(await self._sealer.open(await sealed_keys.get(self._database, signing.key_id)))
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CustodyError(f"key {signing.key_id}: it is not one of a CA of ours")
        return Ca(signing.certificate, key)

    async def _make(self, generation: int, now: datetime) -> None:
        """Make the CA of this generation; of replicas that come here together the first one's is kept."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.new_ca(key, name=authority.ca_name(self._trust_domain, generation), now=now)
        sealed = await self._sealer.seal(
            keys.pkcs8(key),
            key_id=KeyId(uuid4()),
            purpose=PURPOSE,
            spki_sha256=keys.spki_sha256(key.public_key()),
        )
        if await control_cas.keep(
            self._database,
            generation,
            sealed,
            authority.pem([certificate]),
            not_after=certificate.not_valid_after_utc,
            actor=self._actor,
        ):
            _log.info("enrolment.ca_made", generation=generation)


def _own_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> OwnPair:
    renewal = authority.renew_at(certificate.not_valid_before_utc, certificate.not_valid_after_utc, share=0.0)
    return OwnPair(authority.pem([certificate]).encode(), Hidden(keys.pem(key)), renewal)
