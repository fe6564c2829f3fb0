"""Key requests: what a Target wants signed for a Secret whose private keys it makes and keeps.

One Target has the keys of such a Secret: the first that brings a request. Each request is ordered once, and
the Target then brings the next, so that a renewal never waits for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sds_server.conditions import has_keys
from sds_server.errors import Conflict
from sds_server.inventory import audit, feed, freezes, rotations, secrets
from sds_server.inventory.audit import Deed, Deeds
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import Identity, KeyCustody, KeyHolder, Peer, Reason, Secret

LOST_MAX: Final = 3
LOST_WITHIN: Final = timedelta(hours=1)
"""So often a Certificate is replaced because its Target has lost the key; after that it waits."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A signing request (DER) that waits to be ordered; ``spki_sha256`` names its key."""

    csr: bytes
    spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """A key that a Target must have: of which generation it is."""

    generation: int
    spki_sha256: bytes


async def held(database: Database, name: str) -> Sequence[Held]:
    """Return which keys its Target must have: of what is served, and of what was before that."""
    async with database.transaction() as tx:
        rows = await tx.rows("keys_of_target", name)
    return [Held(row["generation"], row["spki_sha256"]) for row in rows]


async def waiting(database: Database, name: str) -> tuple[Secret, KeyRequest | None]:
    """Return the Secret, and the request that waits for its next order; None: its Target should bring one.

    Raises:
        NotFound: there is no such Secret.
        Conflict: its keys are not its Target's.
    """
    async with database.transaction() as tx:
        secret = await secrets.lock(tx, name)
        _check_holder(secret)
        return secret, _request(await tx.row("key_request", name), secret)


async def custody(database: Database, name: str) -> KeyCustody | None:
    """Return which Target has a Secret's keys; None: none has yet, or they are certvoy's.

    Raises:
        NotFound: there is no such Secret.
    """
    secret = await secrets.get(database, name)
    async with database.transaction() as tx:
        row = await tx.row("key_request", name)
    if row is None:
        return None
    return KeyCustody(
        peer=Peer(row["identity"], row["node_id"]),
        brought_at=row["brought_at"],
        waits=_request(row, secret) is not None,
    )


async def bring(
    database: Database,
    asked: Secret,
    peer: Peer,
    request: KeyRequest,
    *,
    lost: int | None = None,
    actor: str,
) -> KeyRequest | None:
    """Keep a request for the next order, and return what waits; a Rotation that waits for one goes on.

    ``asked`` is the Secret that the request was checked against. One of the same key
    changes nothing, also when it was ordered meanwhile: an answer may be lost, and the request be sent again.
    ``lost`` is the generation whose key the Target has not: if that is current, it is replaced.

    Raises:
        NotFound: there is no such Secret.
        Conflict: the Secret was changed meanwhile, another Target has its keys, or the key was used before.
    """
    name = asked.name
    async with database.transaction() as tx:
        secret = await secrets.lock(tx, name)
        _check_holder(secret)
        if (secret.domains, secret.key_type) != (asked.domains, asked.key_type):
            raise Conflict(
                f"secret {name}: it was changed just now", hint="ask what is wanted, and bring that"
            )
        row = await tx.row("key_request", name)
        if row is not None and (row["identity"], row["node_id"]) != peer:
            raise Conflict(
                f"secret {name}: {has_keys(Peer(row['identity'], row['node_id']))}",
                hint="give each target a secret of its own, or let that one go: `certvoy targets rm NAME`",
            )
        waits = _request(row, secret)
        is_known = waits is not None and waits.spki_sha256 == request.spki_sha256
        if not is_known and not await tx.value("key_is_ordered", request.spki_sha256, name):
            await _keep(tx, secret, peer, request, actor=actor)
            waits = request
        if lost is not None:
            await _replace(tx, name, lost, actor=actor)
        return waits


async def _keep(tx: Transaction, secret: Secret, peer: Peer, request: KeyRequest, *, actor: str) -> None:
    """Let a request take the place of the one before."""
    name = secret.name
    if await tx.value("key_is_used", request.spki_sha256):
        raise Conflict(f"secret {name}: this key was used before", hint="make a new one")
    await tx.rows(
        "bring_key_request",
        name,
        *peer,
        request.csr,
        request.spki_sha256,
        list(secret.domains),
        secret.key_type,
    )
    detail = {
        "identity": peer.identity,
        "node_id": peer.node_id,
        "spki_sha256": request.spki_sha256.hex(),
    }
    await audit.append_bounded(
        tx,
        action="key.requested",
        actor=actor,
        identity=peer.identity,
        deeds=Deeds().and_one(Deed(name, detail)),
    )
    under_way = await tx.row("open_rotation", name)
    if under_way is not None and await tx.value("hasten_key_awaited", under_way["id"]) is not None:
        await feed.tell_work(tx)


async def _replace(tx: Transaction, name: str, lost: int, *, actor: str) -> None:
    """Open a Rotation for a Certificate whose key is gone, unless one is under way, or too many were.

    An agent that says so of each new one would otherwise spend the CA's limits.
    """
    served, under_way = await tx.row("served", [name]), await tx.row("open_rotation", name)
    is_current = served is not None and served["generation"] == lost
    is_issuing = under_way is not None and under_way["new_cert_id"] is None
    if not is_current or is_issuing or await freezes.of_in(tx, name) is not None:
        return
    if await tx.value("rotations_for_change", name, LOST_WITHIN) >= LOST_MAX:
        return
    await audit.append(tx, action="key.lost", actor=actor, subject=name, detail={"generation": lost})
    await rotations.open_in(tx, name, reason=Reason.CHANGED, actor=actor)


async def take_in(
    tx: Transaction, secret: Secret, *, allowed: Callable[[Identity], bool]
) -> KeyRequest | None:
    """Take the request that is ordered now, if there is one, as the Secret's lock is held.

    That of an identity that is not ``allowed`` to see the Secret any more stays where it is.
    """
    row = await tx.row("key_request", secret.name)
    if row is not None and not allowed(Identity(row["identity"])):
        return None
    request = _request(row, secret)
    if request is not None:
        await tx.rows("use_key_request", secret.name)
    return request


def _request(row: Row | None, secret: Secret) -> KeyRequest | None:
    """Return what waits, unless it is for other names or another type of key than are wanted now."""
    if row is None or row["csr"] is None:
        return None
    if (tuple(row["domains"]), row["key_type"]) != (secret.domains, secret.key_type):
        return None
    return KeyRequest(row["csr"], row["spki_sha256"])


def _check_holder(secret: Secret) -> None:
    if secret.key_holder is not KeyHolder.TARGET:
        raise Conflict(
            f"secret {secret.name}: certvoy makes its keys",
            hint="declare it with `key_holder: target`, or fetch the pair",
        )
