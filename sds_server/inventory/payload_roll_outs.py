"""Roll-outs of payloads: from stored until each Target of the live set has taken it, or it is taken back.

There are no canaries: what was served before is pushed back at once to whoever refuses, and a payload that
several refuse is no longer offered to anybody. `lifecycle.rollout.decide` judges, as for Certificates.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sds_server.inventory import audit, feed, secrets, targets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.targets import Live
from sds_server.lifecycle import rollout
from sds_server.lifecycle.rollout import Action, Decision, Situation, Standing, Voice, WayBack
from sds_server.model import Kind, Outcome, Proof, ProvedBy, SecretName, Stage, TargetId

NAMED_MAX: Final = 5

OVER: Final = Decision(Action.WAIT, "over")
"""Nothing of the kind is being rolled out any more."""

WORD: Final = Proof(accepted=True)
"""Where Envoy states nothing about a kind, its word must do: the evidence says how many were proved."""


@dataclass(frozen=True, slots=True)
class PayloadRollOut:
    """A version that is being rolled out, and the Targets that count."""

    secret: SecretName
    kind: Kind
    generation: int
    before: int | None
    content: str | None = field(repr=False)
    before_content: str | None = field(repr=False)
    frozen: bool
    age: timedelta
    live: Sequence[Live]

    def shows(self, item: Live) -> bool:
        """Whether its Envoy can be asked what of this it has loaded."""
        return item.target.admin is not None and self.content is not None


async def claim(database: Database, *, every: timedelta, limit: int) -> Sequence[SecretName]:
    """Return Secrets whose roll-out wants a look, which no other replica takes for ``every``."""
    async with database.transaction() as tx:
        return [SecretName(row["secret"]) for row in await tx.rows("claim_payload_looks", every, limit)]


async def get(database: Database, secret: str, *, grace: timedelta) -> PayloadRollOut | None:
    """Return what the Secret's Targets must take; None: nothing of the kind is being rolled out."""
    async with database.transaction() as tx:
        row = await tx.row("open_payload", secret)
        return None if row is None else await _roll_out(tx, row, grace)


async def settle(
    database: Database,
    secret: str,
    generation: int,
    *,
    proved: Collection[TargetId],
    contradicted: Mapping[TargetId, str],
    looked_at: Collection[TargetId],
    known: bool,
    grace: timedelta,
    actor: str,
) -> Decision:
    """Write what Envoys state, decide what is next, and do it.

    ``contradicted``: Targets that have the one before loaded still, in words. ``looked_at``: those that were
    asked after they had taken it; of others that can be asked no word counts yet. ``known`` says that an
    empty live set may be believed.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        row = await tx.row("open_payload", secret)
        if row is None or row["generation"] != generation:
            return OVER
        await _write(tx, row, proved, contradicted, actor=actor)
        roll_out = await _roll_out(tx, row, grace)
        unasked = {item.target.id for item in roll_out.live if roll_out.shows(item)} - {*looked_at}
        decision = rollout.decide(_situation(roll_out, {*contradicted, *unasked}, known=known))
        if decision.action is Action.COMPLETE:
            await _end(tx, roll_out, Outcome.COMPLETED, actor=actor)
        elif decision.action is Action.COMPLETE_UNOBSERVED:
            await _end(tx, roll_out, Outcome.COMPLETED_UNOBSERVED, actor=actor)
        elif decision.action is Action.ROLL_BACK:
            error = _refusals(roll_out, decision)
            await reject_in(tx, secret, generation, error=error, actor=actor)
    return decision


async def reject(
    database: Database, secret: str, generation: int, *, error: Mapping[str, Any], actor: str
) -> bool:
    """Give a version up that must not be served; False where it was given up already."""
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        return await reject_in(tx, secret, generation, error=error, actor=actor)


async def reject_in(
    tx: Transaction, secret: str, generation: int, *, error: Mapping[str, Any], actor: str
) -> bool:
    """As `reject`, in a transaction that holds the Secret's lock: the one before is current again."""
    if await tx.value("reject_payload", secret, generation, dict(error)) is None:
        return False
    await tx.rows("forget_proofs", secret, generation)
    detail = {"generation": generation, "rule": error["rule"], "reason": error["what"]}
    await audit.append(tx, action="payload.rejected", actor=actor, subject=secret, detail=detail)
    await feed.tell_secret(tx, secret)
    return True


async def _write(
    tx: Transaction,
    row: Row,
    proved: Collection[TargetId],
    contradicted: Mapping[TargetId, str],
    *,
    actor: str,
) -> None:
    secret, order = row["secret"], sorted(contradicted)
    if order:
        words = [contradicted[target] for target in order]
        await tx.rows("note_looks", secret, order, words, [None] * len(order))
    seen = sorted(proved)
    by = [ProvedBy.CERTS] * len(seen)
    for delivery in await tx.rows("prove_deliveries", secret, seen, by, row["generation"]):
        detail = {
            "target": delivery["target_id"],
            "generation": row["generation"],
            "by": delivery["proved_by"],
        }
        await audit.append(tx, action="delivery.proved", actor=actor, subject=secret, detail=detail)


def _situation(roll_out: PayloadRollOut, contradicted: Collection[TargetId], *, known: bool) -> Situation:
    return Situation(
        stage=Stage.FLEET,
        voices=[
            Voice(
                target=item.target.id,
                speaker=_speaker(item),
                standing=standing(item, roll_out.generation, contradicted=item.target.id in contradicted),
                witness=item.accepted == roll_out.before,
            )
            for item in roll_out.live
        ],
        proof=WORD,
        way_back=WayBack.NONE if roll_out.before is None else WayBack.OPEN,
        known=known,
        frozen=roll_out.frozen,
    )


def standing(item: Live, generation: int, *, contradicted: bool = False) -> Standing:
    """Say what is known of a Target about a version of a payload."""
    if (item.proved or 0) >= generation:
        return Standing.PROVED
    if item.refused == generation and item.accepted != generation:
        return Standing.REFUSED
    if (item.accepted or 0) >= generation and not item.divided(generation) and not contradicted:
        return Standing.ACCEPTED
    return Standing.SILENT


def _speaker(item: Live) -> str:
    target = item.target
    return f"target:{target.id}" if target.vouched or target.identity is None else str(target.identity)


async def _end(tx: Transaction, roll_out: PayloadRollOut, outcome: Outcome, *, actor: str) -> None:
    standings = {item.target.name: standing(item, roll_out.generation) for item in roll_out.live}
    evidence = {
        "targets": len(standings),
        "proved": dict(
            Counter(item.proved_by or ProvedBy.CERTS for item in roll_out.live if _proved(item, roll_out))
        ),
        "accepted": sum(standing is Standing.ACCEPTED for standing in standings.values()),
    }
    await tx.rows("end_payload", roll_out.secret, roll_out.generation, outcome, evidence, None)
    detail = evidence | {"generation": roll_out.generation, "outcome": outcome}
    await audit.append(tx, action="payload.completed", actor=actor, subject=roll_out.secret, detail=detail)
    await feed.tell_secret(tx, roll_out.secret)


def _proved(item: Live, roll_out: PayloadRollOut) -> bool:
    return (item.proved or 0) >= roll_out.generation


def _refusals(roll_out: PayloadRollOut, decision: Decision) -> dict[str, Any]:
    said = [
        f"{item.target.name}: {item.refusal}" for item in roll_out.live if item.target.id in decision.targets
    ]
    more = f"; and {len(said) - NAMED_MAX} more" if len(said) > NAMED_MAX else ""
    return {
        "what": f"generation {roll_out.generation} was taken back: {'; '.join(said[:NAMED_MAX])}{more}",
        "rule": decision.reason,
        "hint": "mend what they name, then put it again; the one before is served on",
    }


async def _roll_out(tx: Transaction, row: Row, grace: timedelta) -> PayloadRollOut:
    before, content = row["before"], row["content"]
    before_content = None
    if content is not None and before is not None:
        found = await tx.row("payloads", [row["secret"]], [before])
        before_content = None if found is None else found["content"]
    return PayloadRollOut(
        secret=SecretName(row["secret"]),
        kind=Kind(row["kind"]),
        generation=row["generation"],
        before=before,
        content=content,
        before_content=before_content,
        frozen=row["frozen"],
        age=row["age"],
        live=await targets.live_in(tx, row["secret"], grace=grace),
    )
