"""ACME orders: every step committed before the next is taken, so that a crash resumes it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from sds_server.crashpoint import crashpoint
from sds_server.errors import StaleLease
from sds_server.inventory import audit, key_requests, rotations, sealed_keys, secrets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import CertificateId, Identity, KeyId, Lease, SealedKey, Secret


class OrderState(StrEnum):
    """How far an order has come; each is written before the next step begins."""

    PLANNED = "planned"
    ORDERED = "ordered"
    FINALIZING = "finalizing"
    ISSUED = "issued"


@dataclass(frozen=True, slots=True)
class Order:
    """An order under way: the key is sealed and the CSR made before the CA is asked."""

    id: int
    issuer: str
    domains: tuple[str, ...]
    csr: bytes
    key_id: KeyId
    url: str | None
    certificate_url: str | None


@dataclass(frozen=True, slots=True)
class MadeBy:
    """Which account makes an order, and which Certificate it names as the one that it replaces.

    ``profile``: which it asks for; None: the CA's own default.
    """

    account_url: str
    replaces: CertificateId | None
    profile: str | None = None


async def replaceable(
    database: Database, cert_id: CertificateId, *, issuer: str, account_url: str
) -> bytes | None:
    """Return the chain of a Certificate that an order of this account may name; None: it may not.

    It must be of the same issuer and account, and no certificate may have come of such an order yet (RFC
    9773 section 5).
    """
    async with database.transaction() as tx:
        chain: str | None = await tx.value("replaceable", cert_id, issuer, account_url)
    return None if chain is None else chain.encode()


async def plan_for_target(
    database: Database,
    lease: Lease,
    secret: Secret,
    *,
    key_id: KeyId,
    purpose: str,
    allowed: Callable[[Identity], bool],
    actor: str,
) -> Order | None:
    """Store a new order of the request that the Secret's Target brought; None: it has brought none yet.

    ``allowed``: whether an identity may see the Secret now; what it brought while it might is not enough.

    Raises:
        StaleLease: another worker has the Rotation, or the Secret was changed; nothing was written.
    """
    async with database.transaction() as tx:
        await _lock(tx, lease, secret)
        request = await key_requests.take_in(tx, secret, allowed=allowed)
        if request is None:
            return None
        key = SealedKey.external(key_id, purpose, request.spki_sha256)
        return await _plan(tx, lease, secret, csr=request.csr, key=key, actor=actor)


async def plan(
    database: Database, lease: Lease, secret: Secret, *, csr: bytes, key: SealedKey, actor: str
) -> Order:
    """Store the sealed key and the CSR of a new order, before the CA hears of it.

    Raises:
        StaleLease: another worker has the Rotation, or the Secret was changed; nothing was written.
    """
    async with database.transaction() as tx:
        await _lock(tx, lease, secret)
        return await _plan(tx, lease, secret, csr=csr, key=key, actor=actor)


async def _lock(tx: Transaction, lease: Lease, secret: Secret) -> None:
    now = await secrets.lock(tx, lease.secret)
    if (now.domains, now.key_holder) != (secret.domains, secret.key_holder):
        what = "names" if now.domains != secret.domains else "key holder"
        raise StaleLease(f"secret {secret.name}: its {what} changed before it was ordered")
    await rotations.hold(tx, lease)


async def _plan(
    tx: Transaction, lease: Lease, secret: Secret, *, csr: bytes, key: SealedKey, actor: str
) -> Order:
    await sealed_keys.insert(tx, key)
    order_id = await tx.value(
        "insert_order", lease.rotation, secret.issuer, list(secret.domains), csr, key.key_id
    )
    await _tell(tx, lease, "order.planned", actor, order=order_id, key_ref=key.key_ref)
    crashpoint("order.planning")
    return Order(
        id=order_id,
        issuer=secret.issuer,
        domains=secret.domains,
        csr=csr,
        key_id=key.key_id,
        url=None,
        certificate_url=None,
    )


async def under_way(database: Database, lease: Lease) -> Order | None:
    """Return the Rotation's order that an earlier attempt left behind."""
    async with database.transaction() as tx:
        row = await tx.row("order_under_way", lease.rotation)
    return None if row is None else _order(row)


async def given_up(database: Database, lease: Lease) -> Order | None:
    """Return the order that the Rotation came to last, if it was given up before the CA had issued."""
    async with database.transaction() as tx:
        row = await tx.row("order_given_up", lease.rotation)
    return None if row is None else _order(row)


def _order(row: Row) -> Order:
    return Order(
        id=row["id"],
        issuer=row["issuer"],
        domains=tuple(row["domains"]),
        csr=row["csr"],
        key_id=KeyId(row["key_id"]),
        url=row["url"],
        certificate_url=row["certificate_url"],
    )


async def step(
    database: Database,
    lease: Lease,
    order: Order,
    state: OrderState,
    *,
    url: str | None = None,
    certificate_url: str | None = None,
    made_by: MadeBy | None = None,
    actor: str,
) -> None:
    """Write how far the order has come.

    Raises:
        StaleLease: another worker has the Rotation; nothing was written.
    """
    async with database.transaction() as tx:
        await rotations.hold(tx, lease)
        await tx.rows("order_step", order.id, state, url, certificate_url)
        if state is OrderState.FINALIZING:
            await tx.rows("spend_reservations", order.id)
        detail = {}
        if made_by is not None and state is OrderState.ORDERED:
            await tx.rows("order_made_by", order.id, made_by.account_url, made_by.replaces)
            detail = {"account": made_by.account_url, "profile": made_by.profile}
        await _tell(tx, lease, f"order.{state}", actor, order=order.id, url=url or order.url, **detail)


async def abandon(database: Database, lease: Lease, *, actor: str) -> None:
    """Give up the Rotation's order: its names are no longer wanted, or the CA will not go on with it.

    Raises:
        StaleLease: another worker has the Rotation; nothing was written.
    """
    async with database.transaction() as tx:
        await rotations.hold(tx, lease)
        await rotations.abandon_orders(tx, lease.rotation)
        await _tell(tx, lease, "order.abandoned", actor)


async def _tell(tx: Transaction, lease: Lease, action: str, actor: str, **detail: object) -> None:
    detail["rotation"] = lease.rotation
    await audit.append(tx, action=action, actor=actor, subject=lease.secret, detail=detail)
