"""Payloads: what Secrets hold that are no certificates, in immutable versions, stored and read.

Every transaction locks the Secret's row first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict, NotFound
from sds_server.inventory import (
    audit,
    declarations,
    feed,
    freezes,
    offers,
    payload_roll_outs,
    sealed_keys,
    secrets,
)
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import Kind, Peer, Phase, SealedKey, Secret, SecretName, Stage

HISTORY_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Payload:
    """One version: what it holds is public text or sealed; ``history`` leaves that out."""

    secret: SecretName
    generation: int
    kind: Kind
    phase: Phase
    stage: Stage
    content: str | None = field(repr=False)
    key: SealedKey | None
    not_after: datetime | None
    created_at: datetime
    created_by: str
    completed_at: datetime | None
    outcome: str | None
    evidence: dict[str, Any] | None
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Offered:
    """Which version a name is offered (None: there is none yet), and what is left for who refused it.

    ``proven``: its roll-out is over, so that it is served on whatever the calendar says. ``staged``: what all
    but the ``canaries`` get meanwhile; None: all get the same. ``salted``: who gets it as other bytes, and
    which.
    """

    kind: Kind
    generation: int | None
    before: int | None
    proven: bool
    staged: int | None = None
    canaries: frozenset[Peer] = frozenset()
    salted: Mapping[Peer, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class New:
    """A version that has passed the gate: ``content``, or ``key`` where it is sealed.

    ``after``: the generation that it was made of; None: it was made of nothing.
    """

    secret: SecretName
    kind: Kind
    phase: Phase
    content: str | None = field(default=None, repr=False)
    key: SealedKey | None = None
    not_after: datetime | None = None
    after: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What its audit entry says besides."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of it; ``unchanged``: it is what is served already."""

    generation: int
    created: bool = False
    unchanged: bool = False


async def store(database: Database, new: New, *, actor: str) -> Stored:
    """Store a version; where there is no Secret of that name, one of its kind is created.

    A version that is still being rolled out is superseded.

    Raises:
        Conflict: the name has another kind for ever, it is frozen, or it was changed since it was read.
    """
    async with database.transaction() as tx:
        stored = await store_in(tx, new, actor=actor)
    crashpoint("payload.stored")
    return stored


async def store_in(tx: Transaction, new: New, *, actor: str) -> Stored:
    """As `store`, in a transaction of the caller's."""
    if new.after is not None and await secrets.lock_if_there(tx, new.secret) is None:
        # What it was made of is gone, and does not come back by that.
        raise Conflict(f"secret {new.secret}: it was removed meanwhile", hint="put it anew, if it is wanted")
    created = await declare_in(tx, new.secret, new.kind, actor=actor)
    served = await tx.row("served_payload", new.secret)
    if new.after is not None and (served is None or served["generation"] != new.after):
        raise Conflict(f"secret {new.secret}: it was changed meanwhile", hint="try again")
    if served is not None and not created and new.content is not None and served["content"] == new.content:
        return Stored(served["generation"], unchanged=True)
    await freezes.check_in(tx, new.secret)
    await tx.rows("supersede_payload", new.secret)
    if new.key is not None:
        await sealed_keys.insert(tx, new.key)
    key_id = None if new.key is None else new.key.key_id
    generation: int = await tx.value(
        "insert_payload", new.secret, new.kind, new.phase, new.content, key_id, new.not_after, actor
    )
    detail = {"kind": new.kind, "phase": new.phase, "generation": generation, "not_after": new.not_after}
    await audit.append(
        tx, action="payload.stored", actor=actor, subject=new.secret, detail=detail | dict(new.detail)
    )
    if new.kind is Kind.VALIDATION_CONTEXT:  # of the other kinds there are no other bytes
        await tx.rows("offer_bundle_anew", new.secret)
    await payload_roll_outs.begin(tx, new.secret, actor=actor)
    crashpoint("payload.storing")
    await feed.tell_secret(tx, new.secret)
    return Stored(generation, created=created)


async def declare_in(tx: Transaction, name: SecretName, kind: Kind, *, actor: str) -> bool:
    """Create the Secret, if there is none; say whether there was none. It is locked afterwards.

    Raises:
        Conflict: the name has another kind for ever.
    """
    return await declarations.put_in(tx, Secret(name=name, kind=kind), actor=actor) is not None


async def served(database: Database, name: str) -> Payload | None:
    """Return what is offered under the name; None: nothing yet, or it is no payload.

    Raises:
        NotFound: there is no such Secret.
    """
    async with database.transaction() as tx:
        if await tx.row("secret", name) is None:
            raise NotFound(f"secret {name}: there is none of that name")
        row = await tx.row("served_payload", name)
    return None if row is None else from_row(row)


async def history(database: Database, name: str) -> Sequence[Payload]:
    """Return the newest versions, newest first, without what they hold."""
    async with database.transaction() as tx:
        return [from_row(row) for row in await tx.rows("payload_history", name, HISTORY_MAX)]


async def offered(database: Database, names: Iterable[str]) -> Mapping[str, Offered]:
    """Return what each name is offered; a name that is not there, or a certificate's, is missing."""
    async with database.transaction() as tx:
        rows = await tx.rows("offered_payloads", list(names))
        staged = [row for row in rows if row["staged"] is not None]
        canaries: dict[str, set[Peer]] = {}
        at = [row["name"] for row in staged], [row["generation"] for row in staged]
        for row in await tx.rows("payload_canary_peers", *at) if staged else ():
            canaries.setdefault(row["secret"], set()).add(Peer(row["identity"], row["node_id"]))
        salted = await offers.salted_in(tx, [row["name"] for row in rows])
    return {
        row["name"]: Offered(
            Kind(row["kind"]),
            row["generation"],
            row["before"],
            bool(row["proven"]),
            staged=row["staged"],
            canaries=frozenset(canaries.get(row["name"], ())),
            salted=salted.get(row["name"], {}),
        )
        for row in rows
    }


async def load(database: Database, versions: Sequence[tuple[str, int]]) -> Sequence[Payload]:
    """Return these versions, (Secret, generation) each; one whose key was destroyed is missing."""
    names, generations = [name for name, _ in versions], [generation for _, generation in versions]
    async with database.transaction() as tx:
        return [from_row(row) for row in await tx.rows("payloads", names, generations)]


@dataclass(frozen=True, slots=True)
class Chained:
    """A Certificate that some live Target is served, or may be, with its chain."""

    secret: str
    generation: int
    chain_pem: str = field(repr=False)


async def chains_served(database: Database, *, after: tuple[str, int], limit: int) -> Sequence[Chained]:
    """Return a page of those, by Secret and generation, behind ``after``."""
    async with database.transaction() as tx:
        rows = await tx.rows("chains_served", *after, limit)
    return [Chained(row["secret"], row["generation"], row["chain_pem"]) for row in rows]


def from_row(row: Row) -> Payload:
    """Read a row of the payload table, with its key's columns."""
    return Payload(
        secret=SecretName(row["secret"]),
        generation=row["generation"],
        kind=Kind(row["kind"]),
        phase=Phase(row["phase"]),
        stage=Stage(row["stage"]),
        content=row["content"],
        key=None if row["key_id"] is None else sealed_keys.from_row(row),
        not_after=row["not_after"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        completed_at=row["completed_at"],
        outcome=row["outcome"],
        evidence=row["evidence"],
        error=row["error"],
    )
