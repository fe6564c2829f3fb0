"""Targets: registered by an operator, or seen subscribing."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from sds_server.errors import CallerError, NotFound
from sds_server.inventory import audit, secrets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import Identity, Kind, ProvedBy, Target, TargetId, TargetKind

NAME_BYTES_MAX: Final = 1024

MANY: Final = 500
"""So many Targets are read and judged in a thread: each takes some 40 us, and streams go on meanwhile."""

UNSEEN_FOR: Final = timedelta(days=7)
"""After that a Target that was only seen is forgotten, with what is known of it."""


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
    push_error: str | None
    updated_at: datetime
    proved_by: ProvedBy | None
    proved_at: datetime | None
    served: str | None
    """The leaf that was seen last in place of the wanted one."""

    stale_since: datetime | None
    stale_for: timedelta | None
    salt: int
    accepted_for: timedelta | None
    salted_for: timedelta | None
    unchanged_for: timedelta
    current: int | None
    """The generation that it is offered, and so should serve; None: nothing is issued."""

    waits: bool
    """A later generation is at the canaries, and it is none."""

    instances: int
    """How many streams are open: more than one where several proxies call themselves alike."""

    secret_kind: Kind
    """What kind of Secret it is: of most that are no certificates a word is all that there is."""

    agreed: int | None
    """Of several, the generation that each has accepted; None: one has accepted nothing."""

    unseen: bool
    """If it is proved: it could not be seen since, or the agent whose word that was says it no more."""

    said_ago: timedelta | None
    """How long ago an agent, whose word was the proof, said it last."""

    def divided(self, generation: int) -> bool:
        """Whether one of several instances has not accepted it: a look at any of them proves nothing then."""
        return self.instances > 1 and (self.agreed or 0) < generation


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of one Secret at a Target; ``live``: it counts for it."""

    secret: str
    live: bool
    delivery: Live


@dataclass(frozen=True, slots=True)
class Listed:
    """A Target, when it was last seen on a stream, and what it has."""

    target: Target
    last_seen: datetime | None
    holds: Sequence[Held]


async def register(
    database: Database,
    name: str,
    *,
    probe: str | None,
    identity: Identity | None,
    node_id: str | None,
    serves: Sequence[str],
    actor: str,
    kind: TargetKind | None = None,
    admin: str | None = None,
    push: str | None = None,
    proxy_protocol: bool | None = None,
    http3: bool | None = None,
    reserved: str = "",
) -> TargetId:
    """Register a Target, or change the registered or seen one of that name.

    ``kind`` None leaves what is known of it; who is new is an Envoy, or, pushed to, a program with files.
    ``probe`` is ``host:port`` of its TLS listener, ``admin`` that of its Envoy's admin interface; None leaves
    what is known of it, as of ``proxy_protocol``: whether the listener wants that before TLS, and of
    ``http3``: whether HTTP/3 is served there as well. ``push`` is
    where its agent takes bundles, "" takes that away; who can be pushed to has an identity that begins with
    ``reserved``. ``serves`` names Secrets that count it in their live set from now on, seen or not; Secrets
    that it subscribes to count it anyway.

    Raises:
        NotFound: one of the Secrets does not exist.
        CallerError: the name is none, another Target has that identity and node id already, or it is to be
            pushed to and nobody could tell that it is who it says.
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
            row = await tx.row(
                "register_target", name, kind, identity, node_id, probe, admin, push, proxy_protocol, http3
            )
            assert row is not None  # noqa: S101 - inserted, or changed
            target = TargetId(row["id"])
            if row["push"] is not None:
                _check_pushable(name, row["identity"], reserved)
            if push is not None:
                await tx.rows("push_anew", target)
            for secret in sorted(serves):
                await tx.rows("register_delivery", target, secret)
            await audit.append(
                tx,
                action="target.registered",
                actor=actor,
                subject=name,
                detail={
                    "kind": kind,
                    "probe": probe,
                    "proxy_protocol": proxy_protocol,
                    "http3": http3,
                    "admin": admin,
                    "push": push,
                    "identity": identity,
                    "node_id": node_id,
                    "serves": sorted(serves),
                },
            )
    except asyncpg.UniqueViolationError as e:
        raise CallerError(
            f"target {name}: another target has the identity {identity} with node id {node_id}",
            hint="`certvoy targets ls` shows it: change that one",
        ) from e
    return target


def _check_pushable(name: str, identity: str | None, reserved: str) -> None:
    if identity is None or not identity.startswith(reserved):
        who = "its identity is not known" if identity is None else f"{identity} did not enrol here"
        raise CallerError(
            f"target {name}: it cannot be pushed to: {who}",
            hint=f"enrol its agent (`certvoy proxies enroll {name} --secret SECRET`), then name it: "
            f"--identity {reserved}proxy/{name}",
        )


async def remove(database: Database, name: str, *, actor: str) -> None:
    """Forget a Target: it counts for no Secret any more, until it is seen or registered again.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        await tx.rows("lock_secrets_at", name)
        freed = [row["secret"] for row in await tx.rows("forget_key_requests_of", name)]
        if await tx.value("remove_target", name) is None and not freed:
            raise NotFound(
                f"target {name}: there is none of that name", hint="`certvoy targets ls` lists them"
            )
        detail = {"keys_of": sorted(freed)} if freed else None
        await audit.append(tx, action="target.removed", actor=actor, subject=name, detail=detail)


async def sweep(database: Database, *, limit: int, actor: str) -> int:
    """Forget what nobody registered and nobody has seen for long: pods that are gone. Say how many."""
    async with database.transaction() as tx:
        rows = await tx.rows("sweep_targets", UNSEEN_FOR, limit)
        for row in rows:
            await audit.append(tx, action="target.forgotten", actor=actor, subject=row["name"])
    return len(rows)


async def page(database: Database, *, after: str, limit: int) -> Sequence[Listed]:
    """Return Targets by name, behind ``after``."""
    async with database.transaction() as tx:
        return await listed_in(tx, await tx.rows("targets", after, limit))


async def get(database: Database, name: str) -> Listed:
    """Return a Target.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        found = await listed_in(tx, await tx.rows("target", name))
    if not found:
        raise NotFound(f"target {name}: there is none of that name", hint="`certvoy targets ls` lists them")
    return found[0]


async def listed_in(tx: Transaction, rows: Sequence[Row]) -> Sequence[Listed]:
    """Return the Targets of these rows, with what they have."""
    targets = {row["id"]: from_row(row) for row in rows}
    holds: dict[int, list[Held]] = {target: [] for target in targets}
    for row in await tx.rows("deliveries_of", list(targets), None):
        holds[row["target_id"]].append(
            Held(
                secret=row["secret"],
                live=row["live"],
                delivery=_live(targets[row["target_id"]], row),
            )
        )
    return [
        Listed(target=targets[row["id"]], last_seen=row["last_seen"], holds=holds[row["id"]]) for row in rows
    ]


async def of_secret(tx: Transaction, target: Row, secret: str) -> Live:
    """Return what is known of a Secret at the Target of this row, which has it; no other Target is read."""
    row = await tx.row("deliveries_of", [target["id"]], secret)
    assert row is not None  # noqa: S101 - it has it
    return _live(from_row(target), row)


async def live_set(database: Database, secret: str) -> Sequence[Live]:
    """Return the Targets that count for the Secret now: registered for it, or seen lately."""
    async with database.transaction() as tx:
        return await live_in(tx, secret)


async def live_in(tx: Transaction, secret: str, *, grace: timedelta = timedelta(0)) -> Sequence[Live]:
    """Return the same, as a transaction that is under way sees it; for ``grace`` longer where seen only."""
    rows = await tx.rows("live_set", secret, grace)
    return _lives(rows) if len(rows) < MANY else await asyncio.to_thread(_lives, rows)


def _lives(rows: Sequence[Row]) -> Sequence[Live]:
    return [_live(from_row(row), row) for row in rows]


def _live(target: Target, row: Row) -> Live:
    return Live(
        target=target,
        sent=row["sent"],
        accepted=row["accepted"],
        refused=row["refused"],
        proved=row["proved"],
        refusal=row["refusal"],
        probe_error=row["probe_error"],
        push_error=row["push_error"],
        updated_at=row["updated_at"],
        proved_by=None if row["proved_by"] is None else ProvedBy(row["proved_by"]),
        proved_at=row["proved_at"],
        served=row["served"],
        stale_since=row["stale_since"],
        stale_for=row["stale_for"],
        salt=row["salt"],
        accepted_for=row["accepted_for"],
        salted_for=row["salted_for"],
        unchanged_for=row["unchanged_for"],
        current=row["current"],
        waits=row["waits"],
        instances=row["instances"],
        agreed=row["agreed"],
        unseen=row["unseen"],
        said_ago=row["said_ago"],
        secret_kind=Kind(row["secret_kind"]),
    )


def from_row(row: Row) -> Target:
    """Read a row of the target table."""
    return Target(
        id=TargetId(row["id"]),
        name=row["name"],
        kind=TargetKind(row["kind"]),
        identity=None if row["identity"] is None else Identity(row["identity"]),
        node_id=row["node_id"],
        probe=row["probe"],
        registered=row["registered"],
        admin=row["admin"],
        vouched=row["vouched"],
        push=row["push"],
        proxy_protocol=row["proxy_protocol"],
        http3=row["http3"],
    )
