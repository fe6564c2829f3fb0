"""`CertificateManager`: certvoy from Python, under the names of the design document, on the real engine.

It works on the inventory that the replicas share, and beside them: whoever is first takes a Rotation, every
replica answers its challenges, publishes what comes of it, and proves it. Nothing here goes round a rule:
what a manager issues passes the same gate, and is in the same audit.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import SystemRandom
from typing import Final, Self
from uuid import UUID

from acme_engine import selfcheck
from acme_engine.names import normalise_all
from sds_server import conditions
from sds_server.clock import Clock, SystemClock
from sds_server.conditions import DeliveryState
from sds_server.config.certvoy_yaml import Config
from sds_server.config.values import Wrong, secret_name, too_many, unprovable
from sds_server.errors import BadName, CallerError, Conflict, DeliveryRefused, IssuanceFailed, TimedOut
from sds_server.foundation import connect_arguments, custody, issuers
from sds_server.inventory import certificates, declarations, progress, rotations
from sds_server.inventory import targets as inventory
from sds_server.inventory.database import Database, open_database
from sds_server.inventory.tokens import Tokens
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.accounts import Accounts, Issuer, answers
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.treasurer import Treasurer
from sds_server.lifecycle.worker import Worker
from sds_server.model import (
    Certificate,
    CertificateId,
    KeyType,
    Kind,
    Reason,
    Secret,
    SecretName,
)

PATIENCE: Final = timedelta(minutes=5)
LEASE: Final = timedelta(seconds=60)
LOOK_EVERY_S: Final = 0.25


@dataclass(frozen=True)
class CertificateRecord:
    """A Certificate, under the design document's names.

    ``domain`` is the primary name and ``san_domains`` the others; ``status`` is one of `CertificateStatus`,
    ``fingerprint`` the lower-case hex SHA-256 of the leaf's DER, ``key_ref`` a pointer to the sealed key.
    """

    id: str
    domain: str
    san_domains: list[str]
    not_after: datetime
    status: str
    fingerprint: str
    key_ref: str


class CertificateManager:
    """Issues, rotates and distributes certificates; a method returns when that is done, or says why not."""

    def __init__(
        self,
        db: Database,
        kms_client: Sealer,
        acme_client: Mapping[str, Issuer],
        *,
        clock: Clock | None = None,
        name: str = "manager",
    ) -> None:
        """Work on ``db`` with the deployment's own Sealer; ``acme_client`` holds the CAs by name.

        ``name`` is who we are in the audit; two at a time need two.
        """
        self._db = db
        self._clock = clock or SystemClock()
        self._actor = f"replica:{name}"
        self._issuers = acme_client
        self._patience = Patience(database=db, issuers=acme_client, answers=answers, actor=self._actor)
        self._worker = Worker(
            database=db,
            sealer=kms_client,
            issuers=acme_client,
            accounts=Accounts(
                database=db,
                sealer=kms_client,
                actor=self._actor,
                admit=Treasurer(database=db).admit_account,
            ),
            patience=self._patience,
            lease_for=LEASE,
            replica=name,
            clock=self._clock,
            rng=SystemRandom(),
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config, *, name: str = "manager") -> AsyncIterator[Self]:
        """Work beside the replicas that run by this configuration, for the length of the block.

        Raises:
            OperatorError: the database or the KMS cannot be reached, or is not this deployment's.
        """
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            database = await open_database(connect_arguments(config))
            stack.push_async_callback(database.close)
            sealer, _ = await custody(config, database, clock, stack)
            cas = issuers(config)
            for ca in cas.values():
                stack.push_async_callback(ca.challenges.close)
            yield cls(database, sealer, cas, clock=clock, name=name)

    async def issue_certificate(
        self,
        domains: Sequence[str],
        acme_provider: str = "letsencrypt",
        *,
        name: str | None = None,
        within: timedelta = PATIENCE,
    ) -> CertificateRecord:
        """Return a certificate for these domains, the primary first, in the Secret ``name``.

        Without a ``name`` it is the primary domain's.

        One that exists already is returned as it is: asking again costs no order. Where the Secret had other
        names or another CA, it is changed, and what it had is replaced.

        Raises:
            BadIdentifier: a name that is none.
            BadName: there is no such provider, or no domain, or the Secret cannot be called that; or one is a
                wildcard, and the provider's configuration has no DNS.
            IssuanceFailed: the CA or the gate said no; the replicas try again by themselves.
            TimedOut: there was no answer within ``within``; it goes on.
        """
        names = normalise_all(domains)
        if not names:
            raise BadName("domains: is empty", hint="give at least the primary name")
        if acme_provider not in self._issuers:
            known = ", ".join(sorted(self._issuers)) or "none"
            raise BadName(f"acme_provider: there is no {acme_provider}", hint=f"there are: {known}")
        wrong = too_many(names)
        if wrong is None and self._issuers[acme_provider].challenges.dns is None:
            wrong = unprovable(names, acme_provider)
        if wrong is None and (refused := self._issuers[acme_provider].refuses(names)) is not None:
            wrong = Wrong(refused.said, refused.hint)
        if wrong is not None:
            raise BadName(f"domains: {wrong}", hint=wrong.hint)
        secret = Secret(
            name=_name(names[0] if name is None else name),
            kind=Kind.TLS_CERTIFICATE,
            domains=names,
            issuer=acme_provider,
            key_type=KeyType.ECDSA_P256,
        )
        changed = await declarations.put(self._db, secret, actor=self._actor)
        latest = await progress.latest(self._db, secret.name)
        if not changed and (latest.new_cert_id is not None or latest.outcome is not None):
            served = (await certificates.served(self._db, [secret.name]))[secret.name].cert_id
            if served is not None:
                return await self._record(served)
        return await self._rotated(secret.name, Reason.INITIAL, within)

    async def rotate_certificate(self, cert_id: str, *, within: timedelta = PATIENCE) -> CertificateRecord:
        """Return the successor of a certificate, with a key of its own.

        The old one goes on being served until every target is proved to serve the new one, and only then
        becomes ``replaced``: see `distribute_certificate`.

        Raises:
            NotFound: there is no such certificate.
            Conflict: it is not the current one of its Secret.
            IssuanceFailed: the CA or the gate said no; the replicas try again by themselves.
            TimedOut: there was no answer within ``within``; it goes on.
        """
        old = await self._current(cert_id)
        return await self._rotated(old.secret, Reason.OPERATOR, within)

    async def validate_acme_challenge(self, domain: str, token: str, *, address: str | None = None) -> bool:
        """Say whether an HTTP-01 challenge is answered rightly (RFC 8555 section 8.3): ask as a CA does.

        False: no order of ours waits for that token, or ``domain`` answers otherwise than it must. A CA may
        see that differently, as inside a network a public name often leads elsewhere. ``address`` is the
        ``host:port`` to ask instead, such as a load balancer's.
        """
        answer = await Tokens(self._db).get(token)
        return answer is not None and await selfcheck.answers(domain, token, answer, address=address)

    async def distribute_certificate(
        self, cert_id: str, targets: Sequence[str], *, within: timedelta = PATIENCE
    ) -> None:
        """Return when each of these targets is proved to serve the certificate, or its successor.

        Targets are named as ``certvoy targets ls`` does. The replicas push and prove; this waits for them.

        Raises:
            NotFound: there is no such certificate or target.
            Conflict: the certificate is not the current one of its Secret.
            DeliveryRefused: a target refused it; it keeps what it had.
            TimedOut: some are not proved within ``within``; the message says which and why.
        """
        certificate = await self._current(cert_id)
        until = self._clock.monotonic() + within.total_seconds()
        while missing := await self._unproved(certificate, targets):
            refused = {name: why for name, (state, why) in missing.items() if state is DeliveryState.REFUSED}
            if refused:
                raise DeliveryRefused(f"certificate {cert_id}: refused by {_named(refused)}")
            if self._clock.monotonic() >= until:
                reasons = _named({name: why for name, (_, why) in missing.items()})
                raise TimedOut(
                    f"certificate {cert_id}: not proved within {within.total_seconds():g} s at {reasons}",
                    hint=f"`certvoy why {certificate.secret}` says how it goes on",
                )
            await self._clock.sleep(LOOK_EVERY_S)
            certificate = await self._current(cert_id, successor=True)

    async def _rotated(self, secret: SecretName, reason: Reason, within: timedelta) -> CertificateRecord:
        """Work on the Secret's open Rotation until it has its Certificate."""
        rotation = await rotations.open_for(self._db, secret, reason=reason, actor=self._actor)
        until = self._clock.monotonic() + within.total_seconds()
        while True:
            await self._patience.step()
            await self._worker.work_on(secret, rotation)
            found, _, _ = await progress.get(self._db, rotation)
            if found.new_cert_id is not None:
                return await self._record(found.new_cert_id)
            if found.outcome is not None:
                raise Conflict(f"rotation {rotation} of {secret} is {found.outcome}")
            if found.last_error is not None and not found.leased:
                raise IssuanceFailed(f"secret {secret}: {found.last_error['what']}", told=found.last_error)
            if self._clock.monotonic() >= until:
                raise TimedOut(f"rotation {rotation} has not ended within {within.total_seconds():g} s")
            await self._clock.sleep(LOOK_EVERY_S)

    async def _current(self, cert_id: str, *, successor: bool = False) -> Certificate:
        """Return the certificate, if it is what its Secret is served with; ``successor``: or what is now."""
        try:
            wanted = CertificateId(UUID(cert_id))
        except ValueError as e:
            raise CallerError(
                f"certificate {cert_id!r}: an id is a UUID", hint="take it from a record"
            ) from e
        certificate = (await certificates.get(self._db, wanted)).certificate
        served = (await certificates.served(self._db, [certificate.secret])).get(certificate.secret)
        now = None if served is None else served.cert_id
        if now == wanted:
            return certificate
        if successor and now is not None:
            return (await certificates.get(self._db, now)).certificate
        raise Conflict(
            f"certificate {cert_id} is {certificate.status}: {certificate.secret} is served with {now}",
            hint="use the id of that one",
        )

    async def _unproved(
        self, certificate: Certificate, names: Sequence[str]
    ) -> Mapping[str, tuple[DeliveryState, str]]:
        live = {item.target.name: item for item in await inventory.live_set(self._db, certificate.secret)}
        missing = {}
        for name in names:
            item = live.get(name)
            if item is None:
                await inventory.get(self._db, name)
                missing[name] = DeliveryState.NEVER, f"it does not subscribe to {certificate.secret}"
                continue
            state, why = conditions.delivery_state(
                current=certificate.generation,
                sent=item.sent,
                accepted=item.accepted,
                refused=item.refused,
                proved=item.proved,
                refusal=item.refusal,
                probe_error=item.probe_error,
                instances=item.instances,
                agreed=item.agreed,
                node_id=item.target.node_id,
                unseen=item.unseen,
                said_ago=item.said_ago,
                push_error=item.push_error,
            )
            if state is not DeliveryState.PROVED:
                missing[name] = state, why or state
        return missing

    async def _record(self, cert_id: CertificateId) -> CertificateRecord:
        certificate = (await certificates.get(self._db, cert_id)).certificate
        primary, *others = certificate.domains
        return CertificateRecord(
            id=str(certificate.id),
            domain=primary,
            san_domains=others,
            not_after=certificate.not_after,
            status=certificate.status,
            fingerprint=certificate.fingerprint,
            key_ref=certificate.key_ref,
        )


def _name(text: str) -> SecretName:
    try:
        return secret_name(text)
    except Wrong as e:
        raise BadName(f"name: {e}", hint=e.hint) from None


def _named(reasons: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in reasons.items())
