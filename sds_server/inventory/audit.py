"""Audit entries: append-only facts, each written in the transaction of the change that it tells of."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sds_server.audit import actions as audit_actions
from sds_server.crashpoint import crashpoint
from sds_server.inventory.database import Database, Transaction
from sds_server.model import CertificateId, Identity

WRITTEN: Final = 10
"""So many entries of one action may an identity cause in a `WINDOW`; beyond that they are counted."""

WINDOW: Final = timedelta(hours=1)

REMEMBERED: Final = timedelta(hours=24)
"""How long it is known what was done by which key of a caller's own."""

LOOKED_AT: Final = 10_000
"""So many entries of one caller are looked through for a key: a day of one call every nine seconds."""

_KEY: ContextVar[str | None] = ContextVar("idempotency_key", default=None)

Generation = tuple[str, int]
"""Of a Secret, by its name."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was done by a caller's own key."""

    at: datetime
    action: str
    subject: str


@contextmanager
def asked_by(key: str) -> Iterator[None]:
    """Let each entry that is written within say by which key of the caller's own it was asked for."""
    token = _KEY.set(key)
    try:
        yield
    finally:
        _KEY.reset(token)


async def done_by(database: Database, *, actor: str, key: str) -> Done | None:
    """Return the first that this caller did by this key; None: nothing that is remembered."""
    async with database.transaction() as tx:
        row = await tx.row("done_by_key", actor, key, REMEMBERED, LOOKED_AT)
    return None if row is None else Done(row["timestamp"], row["action"], row["subject"])


@dataclass(frozen=True, slots=True)
class Deed:
    """What an identity did, with its entry's detail; ``action`` and identity are those of its batch."""

    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Deeds:
    """Several of one identity; ``times`` counts all, ``first`` has those that are worth an entry."""

    first: Sequence[Deed] = ()
    times: int = 0

    def and_one(self, deed: Deed) -> "Deeds":
        """Return these and one more."""
        first = self.first if len(self.first) >= WRITTEN else (*self.first, deed)
        return replace(self, first=first, times=self.times + 1)

    def without(self, done: "Deeds") -> "Deeds | None":
        """Return what came after these were taken; None: nothing did."""
        left = self.times - done.times
        return Deeds(self.first[len(done.first) :], left) if left else None


async def append(
    tx: Transaction,
    *,
    action: str,
    actor: str,
    subject: str,
    cert_id: CertificateId | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write one entry: ``actor`` did ``action`` to ``subject``.

    ``action`` is one of `audit_actions`. ``detail`` becomes canonical JSON text (sorted keys, no white
    space); it never holds key material.
    """
    payload = _payload(action, actor, subject, cert_id, detail)
    await tx.rows("append_audit", cert_id, action, actor, subject, payload)
    crashpoint("audit.appended")


async def append_news(
    tx: Transaction, *, action: str, actor: str, subject: str, detail: Mapping[str, Any]
) -> bool:
    """Write an entry, unless the last one of this action says the same of the subject; say whether."""
    if await tx.value("newest_audited", subject, action) == _payload(action, actor, subject, None, detail):
        return False
    await append(tx, action=action, actor=actor, subject=subject, detail=detail)
    return True


def _payload(
    action: str,
    actor: str,
    subject: str,
    cert_id: CertificateId | None,
    detail: Mapping[str, Any] | None,
) -> str:
    if action not in audit_actions.NAMES:  # who reads the audit must be able to look up what it says
        raise ValueError(f"audit: {action} is no action: give it a line in sds_server/audit/actions.py")
    key = _KEY.get()
    return json.dumps(
        {"action": action, "actor": actor, "subject": subject, "cert_id": str(cert_id) if cert_id else None}
        | dict(detail or {})
        | ({} if key is None else {"idempotency_key": key}),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        default=str,
    )


async def append_bounded(
    tx: Transaction, *, action: str, actor: str, identity: Identity, deeds: Deeds
) -> None:
    """Write what a peer may do as often as it likes: `WRITTEN` entries in a `WINDOW`, and a count.

    Locks the identity's count: who writes for several identities takes them in their order.
    """
    times: int = await tx.value("tally_audit", identity, action, deeds.times)
    room = max(0, WRITTEN - (times - deeds.times))
    for deed in deeds.first[:room]:
        await append(tx, action=action, actor=actor, subject=deed.subject, detail=deed.detail)


async def end_windows(database: Database, *, limit: int, actor: str) -> int:
    """Write of windows that are over how much was counted and not written; return how many those were."""
    async with database.transaction() as tx:
        over = await tx.rows("end_audit_windows", WINDOW, limit)
        for row in over:
            if row["times"] > WRITTEN:
                detail = {
                    "identity": row["identity"],
                    "more": row["times"] - WRITTEN,
                    "since": row["began_at"],
                }
                await append(tx, action=row["action"], actor=actor, subject=row["identity"], detail=detail)
    return len(over)


@dataclass(frozen=True, slots=True)
class Content:
    """What a generation of a Secret is; None: it is no Certificate, or has no private key."""

    cert_id: CertificateId | None = None
    serial_number: str | None = None
    key_id: str | None = None

    @property
    def detail(self) -> Mapping[str, Any]:
        """By what it is known outside of certvoy."""
        return {"serial_number": self.serial_number, "key_id": self.key_id}


async def contents_of(tx: Transaction, generations: Iterable[Generation]) -> Mapping[Generation, Content]:
    """Return what these are."""
    wanted = sorted(set(generations))
    if not wanted:
        return {}
    rows = await tx.rows("contents_of", [name for name, _ in wanted], [number for _, number in wanted])
    return {
        (row["secret"], row["generation"]): Content(
            None if row["cert_id"] is None else CertificateId(row["cert_id"]),
            row["serial_number"],
            None if row["key_id"] is None else str(row["key_id"]),
        )
        for row in rows
    }
