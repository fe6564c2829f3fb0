"""Deliveries: the present state of each Secret at each Target, written in batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sds_server.crashpoint import crashpoint
from sds_server.inventory import audit
from sds_server.inventory.database import Database, Transaction
from sds_server.model import Identity, Peer, TargetId, TargetKind

SEEN_TARGETS_PER_IDENTITY = 1000
"""One identity's proxies may name themselves as they like (node.id); this bounds the rows they can make."""


@dataclass(frozen=True, slots=True)
class News:
    """What is new of one Secret at one peer; None: nothing of that kind.

    ``seen_for``: how long the peer counts from now on; None: it no longer wants the Secret.
    ``refused_before``: versions that it refused before ``refused_version``, none of them written yet.
    ``kind``: what a Target that nobody knows yet is.
    """

    identity: Identity
    node_id: str
    secret: str
    sent: int | None
    accepted: int | None
    refused: int | None
    refusal: str | None
    refused_version: str | None
    seen_for: timedelta | None
    refused_before: tuple[str, ...] = ()
    kind: TargetKind = TargetKind.ENVOY


async def write(database: Database, news: Sequence[News], *, actor: str) -> frozenset[Identity]:
    """Write a batch in one transaction; the first acceptance and refusal of each generation is audited.

    Returns the identities that have too many Targets: of further ones nothing is written.
    """
    news = [replace(item, node_id=Peer.of(item.identity, item.node_id).node_id) for item in news]
    async with database.transaction() as tx:
        kinds = {(item.identity, item.node_id): item.kind for item in news}
        targets = {peer: await target_of(tx, *peer, kinds[peer]) for peer in sorted(kinds)}
        batch = sorted(
            ((target, item) for item in news if (target := targets[item.identity, item.node_id]) is not None),
            key=lambda pair: (pair[0], pair[1].secret),
        )
        await mark(tx, batch, actor=actor)
        refused = [
            (item, version)
            for item in news
            for version in (*item.refused_before, item.refused_version)
            if version is not None
        ]
        await tx.rows(
            "refuse_content",
            [item.identity for item, _ in refused],
            [item.node_id for item, _ in refused],
            [item.secret for item, _ in refused],
            [version for _, version in refused],
        )
        crashpoint("deliveries.marked")
    return frozenset(identity for (identity, _), target in targets.items() if target is None)


async def mark(tx: Transaction, batch: Sequence[tuple[TargetId, News]], *, actor: str) -> None:
    """Write what is new of these Deliveries, which come in the order of their keys."""
    ids = [target for target, _ in batch]
    # Targets before their Deliveries, as whoever registers or removes one locks them.
    await tx.rows("touch_targets", sorted(set(ids)))
    names = [item.secret for _, item in batch]
    before = {
        (row["target_id"], row["secret"]): row for row in await tx.rows("deliveries_before", ids, names)
    }
    await tx.rows(
        "write_deliveries",
        ids,
        names,
        [item.sent for _, item in batch],
        [item.accepted for _, item in batch],
        [item.refused for _, item in batch],
        [item.refusal for _, item in batch],
        [item.seen_for for _, item in batch],
    )
    for target, item in batch:
        row = before.get((target, item.secret))
        for said in ("accepted", "refused"):
            generation = getattr(item, said)
            if generation is not None and (row is None or row[said] != generation):
                await audit.append(
                    tx,
                    action=f"delivery.{said}",
                    actor=actor,
                    subject=item.secret,
                    detail={
                        "target": target,
                        "identity": item.identity,
                        "node_id": item.node_id,
                        "generation": generation,
                        "refusal": item.refusal if said == "refused" else None,
                    },
                )


async def deny(database: Database, denials: Iterable[tuple[Identity, str, str]], *, actor: str) -> None:
    """Audit that peers asked for names that they may not see: (identity, node id, name) each."""
    async with database.transaction() as tx:
        for identity, node_id, name in denials:
            await audit.append(
                tx,
                action="delivery.denied",
                actor=actor,
                subject=name,
                detail={"identity": identity, "node_id": node_id},
            )


async def target_of(tx: Transaction, identity: Identity, node_id: str, kind: TargetKind) -> TargetId | None:
    """Return the peer's Target: known, waiting for it, or made now; None: the identity has too many."""
    known = await tx.value("target_of_peer", identity, node_id)
    if known is None:
        known = await tx.value("bind_target", identity, node_id)
    for name in (node_id, f"{node_id} ({identity})"):
        if known is None:
            known = await tx.value("see_target", identity, node_id, name, SEEN_TARGETS_PER_IDENTITY, kind)
    return None if known is None else TargetId(known)
