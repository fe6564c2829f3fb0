"""The revoker: asks CAs to revoke what somebody wants revoked, and keeps on asking until they have.

It may ask twice, after a crash or beside another replica: what is revoked already counts as done.
"""

from collections.abc import Mapping
from datetime import timedelta
from random import Random
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import RevocationReason, backoff, keys
from acme_engine.client import Client
from acme_engine.errors import AcmeError, Action, Misconfigured, Refused
from sds_server.clock import Clock
from sds_server.errors import CustodyError
from sds_server.inventory import certificates, revocations
from sds_server.inventory.certificates import Pair
from sds_server.inventory.database import Database
from sds_server.inventory.revocations import Claim
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.patience import Patience, Verdict
from sds_server.lifecycle.told import told
from sds_server.log import get

HOLD: Final = timedelta(minutes=2)
"""How long one that is being asked for is kept from other replicas: longer than the engine is patient."""

_log = get("revoker")


class Revoker:
    """Any number of replicas may run one."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        issuers: Mapping[str, Issuer],
        accounts: Accounts,
        patience: Patience,
        clock: Clock,
        rng: Random,
        actor: str,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._issuers = issuers
        self._accounts = accounts
        self._patience = patience
        self._clock = clock
        self._rng = rng
        self._actor = actor

    async def step(self) -> None:
        """Ask for all that may be asked for now.

        Raises:
            Unavailable: the database or the KMS does not answer; what was claimed is taken up again later.
        """
        while claim := await revocations.claim(self._database, hold_for=HOLD):
            (pair,) = await certificates.pairs(self._database, [claim.cert_id])
            await self._revoke(claim, pair)

    async def _revoke(self, claim: Claim, pair: Pair) -> None:
        certificate = pair.certificate
        log = _log.bind(secret=certificate.secret, generation=certificate.generation, reason=claim.reason)
        try:
            await self._ask(claim, pair)
        except (AcmeError, CustodyError) as e:
            words = told(e)
            away = await self._patience.judge(certificate.issuer, e) is Verdict.AWAY
            now = self._clock.now()
            at = backoff.next_attempt(
                attempts=claim.attempts,
                now=now,
                not_after=certificate.not_after,
                retry_after=getattr(e, "retry_after", None),
                rng=self._rng,
            )
            # What is to be revoked has not ended: nobody gives up on that.
            pause = timedelta(0) if away or at is None else at - now
            await revocations.failed(
                self._database, claim.cert_id, error=words, pause=pause, actor=self._actor
            )
            log.warning("revocation.failed", error=words["what"], hint=words["hint"])
        else:
            await revocations.done(self._database, claim.cert_id, actor=self._actor)
            log.info("certificate.revoked", serial_number=certificate.serial_number)

    async def _ask(self, claim: Claim, pair: Pair) -> None:
        issuer = self._issuers.get(pair.certificate.issuer)
        if issuer is None:
            raise Misconfigured(
                f"the issuer {pair.certificate.issuer} is not in this replica's configuration",
                hint="declare it under `issuers:`",
            )
        account = await self._accounts.ensure(issuer)
        async with self._accounts.client(issuer, account) as client:
            try:
                await self._ask_by(client, claim, pair)
            except Refused as e:
                if e.problem.rule.action is Action.REREGISTER:
                    await self._accounts.forget(issuer, account)
                raise

    async def _ask_by(self, client: Client, claim: Claim, pair: Pair) -> None:
        leaf = x509.load_pem_x509_certificate(pair.certificate.chain_pem).public_bytes(Encoding.DER)
        reason = RevocationReason[claim.reason.name]
        try:
            await client.revoke(leaf, reason=reason)
        except Refused as e:
            if e.problem.code != "unauthorized" or pair.key.is_external:
                raise  # a key that its Target keeps signs nothing here
            # Another account ordered it, from before the issuer was set up anew: its key proves the right.
            key = keys.load_pkcs8(await self._sealer.open(pair.key))
            await client.revoke(leaf, reason=reason, certificate_key=key)
