"""Deliveries: the present state of each Secret at each Target, written in batches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sds_server.crashpoint import crashpoint
from sds_server.inventory import audit, instances
from sds_server.inventory.audit import Deeds
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.instances import Said
from sds_server.lifecycle.instances import Instance
from sds_server.model import Identity, Peer, TargetId, TargetKind

SEEN_TARGETS_PER_IDENTITY = 1000
"""One identity's proxies may name themselves as they like (node.id); this bounds the rows they can make."""


@dataclass(frozen=True, slots=True)
class News:
    """What is new of one Secret at one peer; None: nothing of that kind.

    ``seen_for``: how long the peer counts from now on; None: it no longer wants the Secret.
    ``refused_before``: versions that it refused before ``refused_version``, none of them written yet.
    ``kind``: what a Target that nobody knows yet is. ``mine``: all of this replica's streams of it, and what
    they say together; None: whoever tells it has none, as an agent. The nonces are of
    the responses that were answered, where there were any.
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
    mine: Instance | None = None
    accepted_nonce: str | None = None
    refused_nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch.

    ``capped``: identities that have too many Targets; of further ones nothing is written. ``rolled_up``:
    Secrets of which the instances of a Target together say something else than before.
    """

    capped: frozenset[Identity] = field(default_factory=frozenset)
    rolled_up: frozenset[str] = field(default_factory=frozenset)


async def write(database: Database, news: Sequence[News], *, actor: str) -> Written:
    """Write a batch in one transaction; what is first of each generation is audited."""
    news = [replace(item, node_id=Peer.of(item.identity, item.node_id).node_id) for item in news]
    async with database.transaction() as tx:
        kinds = {(item.identity, item.node_id): item.kind for item in news}
        targets = {peer: await target_of(tx, *peer, kinds[peer]) for peer in sorted(kinds)}
        batch = sorted(
            ((target, item) for item in news if (target := targets[item.identity, item.node_id]) is not None),
            key=lambda pair: (pair[0], pair[1].secret),
        )
        rolled_up = await mark(tx, batch, actor=actor)
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
    capped = frozenset(identity for (identity, _), target in targets.items() if target is None)
    return Written(capped, rolled_up)


async def mark(tx: Transaction, batch: Sequence[tuple[TargetId, News]], *, actor: str) -> frozenset[str]:
    """Write what is new of these Deliveries, which come in the order of their keys.

    Returns the Secrets of which the instances of a Target say something else together than before.
    """
    ids = [target for target, _ in batch]
    # Targets before their Deliveries, as whoever registers or removes one locks them.
    await tx.rows("touch_targets", sorted(set(ids)))
    names = [item.secret for _, item in batch]
    before = await instances.before(tx, ids, names, [item.mine for _, item in batch])
    rolled = await instances.roll_up(
        tx,
        {(target, item.secret): Said(item.mine, item.accepted, item.seen_for) for target, item in batch},
        before,
    )
    now = [rolled[target, item.secret] for target, item in batch]
    await tx.rows(
        "write_deliveries",
        ids,
        names,
        [item.sent for _, item in batch],
        [roll.accepted for roll in now],
        [item.refused for _, item in batch],
        [item.refusal for _, item in batch],
        [item.seen_for for _, item in batch],
        [roll.replica for roll in now],
        [roll.instances for roll in now],
        [roll.agreed for roll in now],
    )
    await instances.keep(tx, rolled)
    said_first = [
        (target, item, said, generation, nonce)
        for (target, item), roll in zip(batch, now, strict=True)
        for said, generation, nonce in (
            ("sent", _unanswered(item), None),
            ("accepted", roll.accepted, item.accepted_nonce),
            ("refused", item.refused, item.refused_nonce),
        )
        if generation is not None and _is_first(before.get((target, item.secret)), said, generation)
    ]
    contents = await audit.contents_of(tx, [(item.secret, number) for _, item, _, number, _ in said_first])
    for target, item, said, generation, nonce in said_first:
        content = contents[item.secret, generation]
        await audit.append(
            tx,
            action=f"delivery.{said}",
            actor=actor,
            subject=item.secret,
            cert_id=content.cert_id,
            detail={
                "target": target,
                "identity": item.identity,
                "node_id": item.node_id,
                "generation": generation,
                "nonce": nonce,
                "refusal": item.refusal if said == "refused" else None,
                **content.detail,
            },
        )
    return frozenset(item.secret for (_, item), roll in zip(batch, now, strict=True) if roll.changed)


def _unanswered(item: News) -> int | None:
    """Return what left without a word that came with it; a word is audited as such, and says as much."""
    return None if item.sent in {item.accepted, item.refused} else item.sent


def _is_first(row: Row | None, said: str, generation: int) -> bool:
    return row is None or row[said] != generation


async def deny(database: Database, denials: Mapping[Identity, Deeds], *, actor: str) -> None:
    """Audit that peers asked for names that they may not see."""
    async with database.transaction() as tx:
        for identity, deeds in sorted(denials.items()):
            await audit.append_bounded(
                tx, action="delivery.denied", actor=actor, identity=identity, deeds=deeds
            )


async def lock(
    tx: Transaction, secret: str, looked_at: Collection[TargetId] | None, generation: int
) -> frozenset[TargetId]:
    """Lock the Deliveries of a Secret that a look at its roll-out may write; return whose they are.

    ``looked_at`` None: all that there are. At once, and in the order in which `mark` locks them: streams'
    news and looks wait for each other, and do not deadlock.
    """
    if looked_at is None:
        rows = await tx.rows("lock_deliveries", secret)
    else:
        rows = await tx.rows("lock_looked_at", secret, list(looked_at), generation)
    return frozenset(TargetId(row["target_id"]) for row in rows)


async def target_of(tx: Transaction, identity: Identity, node_id: str, kind: TargetKind) -> TargetId | None:
    """Return the peer's Target: known, waiting for it, or made now; None: the identity has too many."""
    known = None
    # Twice: whoever registers or sees it in this very moment has the name, and then it is theirs.
    for name in (node_id, f"{node_id} ({identity})"):
        known = known or await tx.value("target_of_peer", identity, node_id)
        known = known or await tx.value("bind_target", identity, node_id)
        known = known or await tx.value(
            "see_target", identity, node_id, name, SEEN_TARGETS_PER_IDENTITY, kind
        )
    return None if known is None else TargetId(known)
