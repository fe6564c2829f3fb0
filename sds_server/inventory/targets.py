"""Targets: registered by an operator, or seen subscribing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from sds_server.errors import CallerError, NotFound
from sds_server.inventory import audit, secrets
from sds_server.inventory.database import Database, Row
from sds_server.model import Identity, Target, TargetId, TargetKind

NAME_BYTES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Live:
    """A Target of a Secret's live set, with the generations that are recorded of it."""

    target: Target
    sent: int | None
    accepted: int | None
    refused: int | None
    proved: int | None
    refusal: str | None
    probe_error: str | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A Target and when it was last seen on a stream."""

    target: Target
    last_seen: datetime | None


async def register(
    database: Database,
    name: str,
    *,
    probe: str,
    identity: Identity | None,
    node_id: str | None,
    serves: Sequence[str],
    actor: str,
) -> TargetId:
    """Register a Target, or change the registered or seen one of that name.

    ``probe`` is ``host:port`` of its TLS listener. ``serves`` names Secrets that count it in their live set
    from now on, seen or not; Secrets that it subscribes to count it anyway.

    Raises:
        NotFound: one of the Secrets does not exist.
        CallerError: the name is none, or another Target has that identity and node id already.
    """
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX:
        raise CallerError(
            f"target: must have a name of 1 to {NAME_BYTES_MAX:,} bytes",
            hint="name it as its Envoy's node.id",
        )
    try:
        async with database.transaction() as tx:
            for secret in sorted(serves):
                await secrets.lock(tx, secret)
            target = TargetId(
                await tx.value("register_target", name, TargetKind.ENVOY, identity, node_id, probe)
            )
            for secret in sorted(serves):
                await tx.rows("register_delivery", target, secret)
            await audit.append(
                tx,
                action="target.registered",
                actor=actor,
                subject=name,
                detail={"probe": probe, "identity": identity, "node_id": node_id, "serves": sorted(serves)},
            )
    except asyncpg.UniqueViolationError as e:
        raise CallerError(
            f"target {name}: another target has the identity {identity} with node id {node_id}",
            hint="`certvoy targets ls` shows it: change that one",
        ) from e
    return target


async def remove(database: Database, name: str, *, actor: str) -> None:
    """Forget a Target: it counts for no Secret any more, until it is seen or registered again.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        if await tx.value("remove_target", name) is None:
            raise NotFound(
                f"target {name}: there is none of that name", hint="`certvoy targets ls` lists them"
            )
        await audit.append(tx, action="target.removed", actor=actor, subject=name)


async def every(database: Database) -> Sequence[Listed]:
    """Return all Targets, by name."""
    async with database.transaction() as tx:
        return [Listed(target=_target(row), last_seen=row["last_seen"]) for row in await tx.rows("targets")]


async def live_set(database: Database, secret: str) -> Sequence[Live]:
    """Return the Targets that count for the Secret now: registered for it, or seen lately."""
    async with database.transaction() as tx:
        rows = await tx.rows("live_set", secret)
    return [
        Live(
            target=_target(row),
            sent=row["sent"],
            accepted=row["accepted"],
            refused=row["refused"],
            proved=row["proved"],
            refusal=row["refusal"],
            probe_error=row["probe_error"],
        )
        for row in rows
    ]


def _target(row: Row) -> Target:
    return Target(
        id=TargetId(row["id"]),
        name=row["name"],
        kind=TargetKind(row["kind"]),
        identity=None if row["identity"] is None else Identity(row["identity"]),
        node_id=row["node_id"],
        probe=row["probe"],
        registered=row["registered"],
    )
