"""What the Targets of a roll-out say, read off their Deliveries, and the words for it. Pure."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from acme_engine import renewal
from sds_server.inventory.database import Row
from sds_server.inventory.targets import Live
from sds_server.lifecycle.rollout import SWITCHING, Decision, Situation, Standing, Voice, WayBack
from sds_server.model import (
    CertificateId,
    CertificateStatus,
    Proof,
    ProvedBy,
    RotationId,
    SecretName,
    Stage,
    TargetId,
    TargetKind,
)

AGAIN_FIRST: Final = timedelta(seconds=30)
AGAIN_MAX: Final = timedelta(hours=1)

NAMED_MAX: Final = 5
"""Targets named in a reason; the others are in `certvoy why`."""


@dataclass(frozen=True, slots=True)
class Before:
    """The Certificate that the new one replaces."""

    generation: int
    fingerprint: str
    serial_number: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Target should serve, and what it should not serve any more."""

    domains: Sequence[str]
    generation: int
    fingerprint: str
    serial_number: str
    before: Before | None
    on_demand: bool = False
    """An Envoy chooses it by SNI, and does not list it in /certs."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a Target showed: the proof, or why there is none and which leaf is served instead.

    ``missing``: it answered, and has not the wanted leaf; which it has instead nobody knows.
    """

    target: TargetId
    by: ProvedBy | None = None
    error: str | None = None
    served: str | None = None
    missing: bool = False


@dataclass(frozen=True, slots=True)
class RollOut:
    """An open Rotation whose new Certificate is stored: what its Targets must be proved to serve.

    ``asked``: the canaries, and for how long they have been that. ``live``: the Targets that count.
    """

    rotation: RotationId
    secret: SecretName
    new_cert_id: CertificateId
    generation: int
    fingerprint: str
    serial_number: str
    before: Before | None
    stage: Stage
    age: timedelta
    """How long ago the new Certificate was stored, when this was read."""

    domains: tuple[str, ...]
    on_demand: bool
    asked: Mapping[TargetId, timedelta]
    live: Sequence[Live]

    @property
    def wanted(self) -> Wanted:
        """What its Targets must be seen to serve."""
        return Wanted(
            self.domains,
            self.generation,
            self.fingerprint,
            self.serial_number,
            self.before,
            on_demand=self.on_demand,
        )

    @property
    def unproved(self) -> Sequence[Live]:
        """The Targets that are offered the new Certificate and are not proved to serve it."""
        return [
            item
            for item in self.live
            if (item.proved or 0) < self.generation
            and (self.stage is Stage.FLEET or item.target.id in self.asked)
        ]


def situation(row: Row, roll_out: RollOut, *, known: bool) -> Situation:
    """Return all that is decided on; ``row`` is the roll-out's as the inventory has it."""
    proof = Proof.parse(row["proof"])
    return Situation(
        stage=roll_out.stage,
        voices=[_voice(item, roll_out, proof) for item in roll_out.live],
        proof=proof,
        way_back=way_back(row),
        known=known,
        frozen=row["frozen"],
        overruled=row["overruled"],
    )


def _voice(item: Live, roll_out: RollOut, proof: Proof) -> Voice:
    target = item.target
    return Voice(
        target=target.id,
        # Unless an operator named its identity anybody could have been bound to it.
        speaker=f"target:{target.id}" if target.vouched or target.identity is None else str(target.identity),
        standing=_standing(item, roll_out),
        witness=_witness(item, roll_out, proof),
        asked_for=roll_out.asked.get(target.id),
    )


def _standing(item: Live, roll_out: RollOut) -> Standing:
    generation = roll_out.generation
    if (item.proved or 0) >= generation:
        return Standing.PROVED
    if item.refused == generation:
        return Standing.REFUSED
    if item.salt > 0 and serves_the_one_before(item, roll_out):
        return Standing.DIFFERENT
    if (item.accepted or 0) >= generation and _unseen(item):
        return Standing.ACCEPTED
    return Standing.SILENT


def _witness(item: Live, roll_out: RollOut, proof: Proof) -> bool:
    before = roll_out.before
    if before is None or item.stale_since is not None:
        return False
    return item.proved == before.generation or (
        proof.accepted and _unseen(item) and item.accepted == before.generation
    )


def _unseen(item: Live) -> bool:
    """Whether nobody can look: an Envoy without an address. An agent looks itself."""
    target = item.target
    return target.probe is None and target.admin is None and target.kind is TargetKind.ENVOY


def serves_the_one_before(item: Live, roll_out: RollOut) -> bool:
    """Whether a Target took the new Certificate, had time to switch, and was seen to serve the one before."""
    return (
        (item.accepted or 0) >= roll_out.generation
        and item.accepted_for is not None
        and item.accepted_for >= SWITCHING
        and roll_out.before is not None
        and item.served == roll_out.before.fingerprint
        and item.proved == roll_out.before.generation
    )


def wants_other_bytes(item: Live, roll_out: RollOut) -> bool:
    """Whether a Target should be offered the new Certificate as other bytes now.

    At once where it took it and serves the one before; later, and where it refused it, less and less often.
    """
    before = serves_the_one_before(item, roll_out)
    if before and item.salt == 0:
        return True
    if not before and item.refused != roll_out.generation:
        return False
    waited = item.unchanged_for if item.salted_for is None else item.salted_for
    return waited >= again_after(item.salt)


def again_after(salt: int) -> timedelta:
    """How long a proxy is left alone that was offered a Certificate as other bytes so often."""
    return min(AGAIN_FIRST * (1 << min(salt, 10)), AGAIN_MAX)


def way_back(row: Row) -> WayBack:
    """Say whether the Certificate before can be gone back to."""
    if row["cert_id"] is None or no_way_back(row) is not None:
        return WayBack.NONE
    floor = renewal.floor(not_before=row["before_not_before"], not_after=row["before_not_after"])
    return WayBack.OPEN if row["now"] < floor else WayBack.NEARING_END


def no_way_back(row: Row) -> str | None:
    """Return why the Certificate before is never gone back to."""
    if row["cert_id"] is None:
        return "it is the first"
    generation = f"generation {row['before_generation']}"
    if row["before_revoked"]:
        return f"{generation} is revoked, or its key is lost"
    if row["before_not_after"] <= row["now"]:
        return f"{generation} has expired"
    if row["before_status"] != CertificateStatus.ROTATING:
        return f"{generation} is {row['before_status']}"
    return None


def evidence(row: Row, roll_out: RollOut) -> dict[str, Any]:
    """Return what a completion rests on."""
    live = roll_out.live
    proved = [item for item in live if (item.proved or 0) >= roll_out.generation]
    unproved = [item for item in live if item not in proved]
    accepted = [item for item in unproved if _standing(item, roll_out) is Standing.ACCEPTED]
    return {
        "policy": row["proof"],
        "targets": len(live),
        "proved": dict(Counter(item.proved_by or ProvedBy.HANDSHAKE for item in proved)),
        "accepted": len(accepted),
        "unproved": names(roll_out, [item.target.id for item in unproved if item not in accepted]),
    }


def refusals(roll_out: RollOut, decision: Decision) -> dict[str, Any]:
    """Return why a Certificate was taken back, as the Rotation keeps it."""
    return {
        "what": f"generation {roll_out.generation} was taken back: {_said(roll_out, decision)}",
        "rule": decision.reason,
        "hint": f"mend what they name, then `certvoy rotate {roll_out.secret}`; the one before is served on",
    }


def question(roll_out: RollOut, decision: Decision) -> str:
    """Return what a person must decide."""
    secret = roll_out.secret
    return (
        f"generation {roll_out.generation} is refused, and the one before ends soon:"
        f" {_said(roll_out, decision)}; `certvoy resume {secret}` goes on with it,"
        f" `certvoy rollback {secret}` goes back"
    )


def _said(roll_out: RollOut, decision: Decision) -> str:
    words = []
    for item in roll_out.live:
        if item.target.id in decision.targets[:NAMED_MAX]:
            refused = item.refused == roll_out.generation
            words.append(f"{item.target.name}: {item.refusal if refused else item.probe_error}")
    more = len(decision.targets) - len(words)
    return "; ".join(words) + (f"; and {more} more" if more > 0 else "")


def names(roll_out: RollOut, chosen: Iterable[TargetId]) -> list[str]:
    """Return what these Targets are called, a few of them."""
    wanted = set(chosen)
    return [item.target.name for item in roll_out.live if item.target.id in wanted][:NAMED_MAX]


def rank(cert_id: UUID, target: TargetId) -> bytes:
    """An order that differs from Certificate to Certificate: it is not always the same who goes first."""
    return hashlib.sha256(cert_id.bytes + target.to_bytes(8, "big")).digest()
