"""Offers: which Certificate each proxy is offered under a name, by what the inventory says now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sds_server.inventory.database import Database, Transaction
from sds_server.model import CertificateId, Kind, Peer, Stage

SALTED_MAX: Final = 1000
"""Of one batch of names: each is another Resource in memory. The next ones come when these are healed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a name is offered with.

    ``kind`` is the Secret's; what a payload is offered with `payloads` says. ``cert_id`` is its newest
    Certificate; None: nothing is issued yet. ``before`` is the one before while that rolls out, if it may be
    served still: where it is ``staged`` what all get but the ``canaries``, else what is left for who refused
    the new one. ``salted``: who gets its Certificate as other bytes, and which. ``staple`` and
    ``before_staple``: which staple goes along with each. ``hopeless``: it was asked for on demand, and its
    first order has failed, or its CA is left alone: whoever waits now waits in vain.
    """

    cert_id: CertificateId | None
    before: CertificateId | None = None
    staged: bool = False
    canaries: frozenset[Peer] = frozenset()
    salted: Mapping[Peer, int] = field(default_factory=dict)
    kind: Kind = Kind.TLS_CERTIFICATE
    staple: int | None = None
    before_staple: int | None = None
    hopeless: bool = False


async def of(database: Database, names: Iterable[str]) -> Mapping[str, Offer]:
    """Return what each name is offered with; a name that is not there is missing in the result."""
    async with database.transaction() as tx:
        rows = await tx.rows("offered", list(names))
        staged = [row["rotation"] for row in rows if row["stage"] == Stage.CANARY]
        canaries: dict[int, set[Peer]] = {}
        for row in await tx.rows("canary_peers", staged) if staged else ():
            peer = Peer(row["identity"], row["node_id"])
            canaries.setdefault(row["rotation_id"], set()).add(peer)
        salted = await salted_in(tx, [row["name"] for row in rows])
    return {
        row["name"]: Offer(
            cert_id=row["id"],
            before=row["before"],
            staged=row["stage"] == Stage.CANARY and row["before"] is not None,
            canaries=frozenset(canaries.get(row["rotation"], ())),
            salted=salted.get(row["name"], {}),
            kind=Kind(row["kind"]),
            staple=row["staple"],
            before_staple=row["before_staple"],
            hopeless=row["hopeless"],
        )
        for row in rows
    }


async def salted_in(tx: Transaction, names: list[str]) -> Mapping[str, Mapping[Peer, int]]:
    """Return who gets what these names are offered with as other bytes, and which."""
    salted: dict[str, dict[Peer, int]] = {}
    for row in await tx.rows("salted_peers", names, SALTED_MAX):
        salted.setdefault(row["secret"], {})[Peer(row["identity"], row["node_id"])] = row["salt"]
    return salted
