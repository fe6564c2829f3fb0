"""The planner: what is ordered. Key, seal and CSR are committed before the CA hears of anything."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from acme_engine import ari, keys
from acme_engine import chain as chains
from acme_engine.ordering import Terms
from sds_server import spacing
from sds_server.conditions import custody_said
from sds_server.crashpoint import crashpoint
from sds_server.errors import KeyAwaited, OrderedTooOften
from sds_server.inventory import guilty, key_requests, orders
from sds_server.inventory.database import Database
from sds_server.inventory.orders import Order
from sds_server.inventory.rotations import Claim
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.accounts import Account, Accounts, Issuer
from sds_server.model import LEAF_PURPOSE, CertificateId, Identity, KeyHolder, KeyId, Lease, Secret


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """An opened key on its way through the gate; None: its Target keeps it."""

    pkcs8: bytes | None
    spki_sha256: bytes
    key_ref: str


class Planner:
    """Plans orders, with a key of ours or a request of the Secret's Target, and opens their keys."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        accounts: Accounts,
        authorize: Callable[[Identity, str], bool],
        actor: str,
    ) -> None:
        """``authorize``: what an identity may see, asked once more before its key is ordered for."""
        self._authorize = authorize
        self._database = database
        self._sealer = sealer
        self._accounts = accounts
        self._actor = actor

    async def order(self, lease: Lease, secret: Secret) -> Order:
        """Return the order that an earlier attempt left behind, or plan one: key, seal, CSR, commit."""
        order = await orders.under_way(self._database, lease)
        if order is not None:
            if (order.domains, order.issuer) == (secret.domains, secret.issuer):
                return order
            await orders.abandon(self._database, lease, actor=self._actor)
        by_target = secret.key_holder is KeyHolder.TARGET
        order = await (self._for_target(lease, secret) if by_target else self._for_key(lease, secret))
        crashpoint("order.planned")
        return order

    async def _for_key(self, lease: Lease, secret: Secret) -> Order:
        """Plan an order for a key of ours."""
        # RSA takes tens of milliseconds: not in the loop that serves.
        key = await asyncio.to_thread(keys.generate, keys.KeyType(str(secret.key_type)))
        crashpoint("key.generated")
        sealed = await self._sealer.seal(
            keys.pkcs8(key),
            key_id=KeyId(uuid4()),
            purpose=LEAF_PURPOSE,
            spki_sha256=keys.spki_sha256(key.public_key()),
        )
        csr = keys.csr(key, secret.domains)
        crashpoint("key.sealed")
        return await orders.plan(self._database, lease, secret, csr=csr, key=sealed, actor=self._actor)

    async def _for_target(self, lease: Lease, secret: Secret) -> Order:
        """Plan an order for the key that the Secret's Target has made."""
        order = await orders.plan_for_target(
            self._database,
            lease,
            secret,
            key_id=KeyId(uuid4()),
            purpose=LEAF_PURPOSE,
            allowed=lambda identity: self._authorize(identity, secret.name),
            actor=self._actor,
        )
        if order is None:
            custody = await key_requests.custody(self._database, secret.name)
            raise KeyAwaited(secret.name, custody_said(custody), over_sds=secret.key_file is not None)
        return order

    async def check_spacing(self, secret: Secret, issuer: Issuer) -> None:
        """Hold an order back that its CA would count against us: its limits are of names, for days.

        Raises:
            OrderedTooOften: and for how long.
        """
        if issuer.spacing is None:
            return
        lasts = max(issuer.spacing.per, issuer.spacing.least)
        found = spacing.wait(
            issuer.spacing,
            issued=await guilty.issued(self._database, [issuer.name], secret.domains, within=lasts),
            failed=await guilty.failed(
                self._database, [issuer.name], secret.domains, within=spacing.FAILURES_PER
            ),
        )
        if found is not None:
            raise OrderedTooOften(secret.name, found.reason, wait=found.lasts)

    async def terms(
        self, claim: Claim, issuer: Issuer, account: Account
    ) -> tuple[Terms, CertificateId | None]:
        """Return what a new order asks for, and the Certificate that it says it replaces."""
        if claim.replaces is None:
            return issuer.terms, None
        chain = await orders.replaceable(
            self._database, claim.replaces, issuer=claim.issuer, account_url=account.url
        )
        identifier = None if chain is None else ari.certificate_id(chains.parse(chain).leaf)
        if identifier is None:
            return issuer.terms, None
        return replace(issuer.terms, replaces=identifier), claim.replaces

    async def key(self, order: Order) -> Key:
        """Return the key of an order, opened.

        Raises:
            CustodyError: it cannot be.
            Unavailable: the KMS does not answer.
        """
        sealed = await self._accounts.sealed(order.key_id)
        return Key(
            pkcs8=None if sealed.is_external else await self._sealer.open(sealed),
            spki_sha256=sealed.spki_sha256,
            key_ref=sealed.key_ref,
        )
