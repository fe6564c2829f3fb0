"""Roll-outs of payloads: from stored until each Target of the live set has taken it, or it is taken back.

As of Certificates: canaries first, and `lifecycle.rollout.decide` judges on what the transaction itself
reads. Every transaction locks the Secret's row first.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict
from sds_server.inventory import audit, deliveries, feed, freezes, secrets, targets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.targets import Live
from sds_server.inventory.voices import again_after
from sds_server.lifecycle import rollout
from sds_server.lifecycle.rollout import SWITCHING, Action, Decision, Situation, Standing, Voice, WayBack
from sds_server.model import Kind, Outcome, Proof, ProvedBy, SecretName, Stage, TargetId

NAMED_MAX: Final = 5

NO_GRACE: Final = timedelta(0)

OVER: Final = Decision(Action.WAIT, "over")
"""Nothing of the kind is being rolled out any more."""

WORD: Final = Proof(accepted=True)
"""Where Envoy states nothing about a kind, its word must do: the evidence says how many were proved."""


@dataclass(frozen=True, slots=True)
class PayloadRollOut:
    """A version that is being rolled out, and the Targets that count.

    ``before``: what all others get while canaries have this one, and everybody gets if it is taken back.
    ``asked``: the canaries, and for how long they have been that.
    """

    secret: SecretName
    kind: Kind
    generation: int
    before: int | None
    content: str | None = field(repr=False)
    before_content: str | None = field(repr=False)
    stage: Stage
    frozen: bool
    age: timedelta
    asked: Mapping[TargetId, timedelta]
    live: Sequence[Live]

    @property
    def offered(self) -> Sequence[Live]:
        """The Targets that are offered this version."""
        if self.stage is Stage.FLEET:
            return self.live
        return [item for item in self.live if item.target.id in self.asked]

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
    decision = OVER
    for whole in (False, True):
        async with database.transaction() as tx:
            decision = await _settle(
                tx,
                secret,
                generation,
                proved=proved,
                contradicted=contradicted,
                looked_at=looked_at,
                known=known,
                grace=grace,
                actor=actor,
                whole=whole,
            )
        if decision.action is not Action.ROLL_BACK:
            break
    return decision


async def _settle(
    tx: Transaction,
    secret: str,
    generation: int,
    *,
    proved: Collection[TargetId],
    contradicted: Mapping[TargetId, str],
    looked_at: Collection[TargetId],
    known: bool,
    grace: timedelta,
    actor: str,
    whole: bool,
) -> Decision:
    """Do what is decided; but take back only where all Deliveries were locked from the start (``whole``)."""
    if await secrets.lock_if_there(tx, secret) is None:
        return OVER
    row = await tx.row("open_payload", secret)
    if row is None or row["generation"] != generation:
        return OVER
    ours = await deliveries.lock(tx, secret, None if whole else {*proved, *contradicted}, generation)
    await _write(tx, row, proved, contradicted, actor=actor)
    roll_out = await _roll_out(tx, row, grace)
    await _offer_again(tx, roll_out, contradicted, ours)
    unasked = {item.target.id for item in roll_out.live if roll_out.shows(item)} - {*looked_at}
    decision = rollout.decide(_situation(roll_out, contradicted, unasked, known=known))
    if decision.action is Action.ROLL_BACK and not whole:
        return decision
    await _do(tx, roll_out, decision, actor=actor)
    # Who is left may be nobody: then nobody would say anything more.
    if decision.action is Action.FAN_OUT:
        to_all = replace(roll_out, stage=Stage.FLEET)
        last = rollout.decide(_situation(to_all, contradicted, unasked, known=known))
        if last.action is Action.COMPLETE:
            await _do(tx, roll_out, last, actor=actor)
            return last
    return decision


async def begin(tx: Transaction, secret: str, *, actor: str) -> None:
    """Choose the canaries of a version that was just stored; without any it is offered to all."""
    row = await tx.row("open_payload", secret)
    assert row is not None  # noqa: S101 - stored in this transaction
    if row["before"] is None:
        return
    roll_out = await _roll_out(tx, row, NO_GRACE)
    voices = _situation(roll_out, (), (), known=True).voices
    order = sorted((voice.target for voice in voices), key=lambda target: _rank(roll_out, target))
    if chosen := rollout.first_canaries(voices, order):
        await tx.rows("payload_to_canaries", secret, roll_out.generation)
        await _ask(tx, roll_out, chosen, "first", actor=actor)


async def roll_back(database: Database, secret: str, *, actor: str) -> str:
    """Go back to the version before, as an operator wants; returns what is written down of it.

    Raises:
        NotFound: there is no such Secret.
        Conflict: nothing is being rolled out, or there is nothing to go back to.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        row = await tx.row("open_payload", secret)
        if row is None:
            hint = f"`certvoy why {secret}` says how it is"
            raise Conflict(f"secret {secret}: nothing is being rolled out", hint=hint)
        if row["before"] is None:
            raise Conflict(f"secret {secret}: it is the first version", hint="put what it shall hold")
        what = f"{actor} took generation {row['generation']} back"
        error = {"what": what, "rule": "operator", "hint": "put it again to try once more"}
        await reject_in(tx, secret, row["generation"], error=error, actor=actor)
        await freezes.answer_in(tx, secret, actor=actor)
        return what


async def reject(
    database: Database, secret: str, generation: int, *, error: Mapping[str, Any], actor: str
) -> bool:
    """Give a version up that must not be served; False where it was given up already."""
    async with database.transaction() as tx:
        if await secrets.lock_if_there(tx, secret) is None:
            return False
        return await reject_in(tx, secret, generation, error=error, actor=actor)


async def reject_in(
    tx: Transaction, secret: str, generation: int, *, error: Mapping[str, Any], actor: str
) -> bool:
    """As `reject`, in a transaction that holds the Secret's lock: the one before is current again."""
    if await tx.value("reject_payload", secret, generation, dict(error)) is None:
        return False
    await tx.rows("lock_deliveries", secret)
    await tx.rows("forget_proofs", secret, generation)
    detail = {"generation": generation, "rule": error["rule"], "reason": error["what"]}
    await audit.append(tx, action="payload.rejected", actor=actor, subject=secret, detail=detail)
    await feed.tell_secret(tx, secret)
    crashpoint("payload.rejecting")
    return True


async def _do(tx: Transaction, roll_out: PayloadRollOut, decision: Decision, *, actor: str) -> None:
    match decision.action:
        case Action.WAIT | Action.ASK_OPERATOR:  # nobody is asked: there is a way back for ever, or none
            pass
        case Action.ASK_MORE:
            await _ask(tx, roll_out, decision.targets, decision.reason, actor=actor)
            await feed.tell_secret(tx, roll_out.secret)
        case Action.FAN_OUT:
            await _fan_out(tx, roll_out, decision.reason, actor=actor)
        case Action.ROLL_BACK:
            error = _refusals(roll_out, decision)
            await reject_in(tx, roll_out.secret, roll_out.generation, error=error, actor=actor)
        case Action.COMPLETE:
            await _end(tx, roll_out, Outcome.COMPLETED, actor=actor)
        case Action.COMPLETE_UNOBSERVED:
            await _end(tx, roll_out, Outcome.COMPLETED_UNOBSERVED, actor=actor)


async def _ask(
    tx: Transaction, roll_out: PayloadRollOut, chosen: Sequence[TargetId], reason: str, *, actor: str
) -> None:
    await tx.rows("add_payload_canaries", roll_out.secret, roll_out.generation, list(chosen))
    crashpoint("payload.asking")
    names = [item.target.name for item in roll_out.live if item.target.id in chosen][:NAMED_MAX]
    detail = {"generation": roll_out.generation, "reason": reason, "targets": names}
    await audit.append(tx, action="payload.canaries", actor=actor, subject=roll_out.secret, detail=detail)


async def _fan_out(tx: Transaction, roll_out: PayloadRollOut, reason: str, *, actor: str) -> None:
    if await tx.value("payload_to_all", roll_out.secret, roll_out.generation) is None:
        return
    crashpoint("payload.fanning_out")
    detail = {"generation": roll_out.generation, "reason": reason}
    await audit.append(tx, action="payload.fanned_out", actor=actor, subject=roll_out.secret, detail=detail)
    await feed.tell_secret(tx, roll_out.secret)


def _rank(roll_out: PayloadRollOut, target: TargetId) -> bytes:
    """An order that differs from version to version: it is not always the same who goes first."""
    return hashlib.sha256(f"{roll_out.secret}\n{roll_out.generation}\n{target}".encode()).digest()


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
        await tx.rows("note_looks", secret, order, words, [None] * len(order), row["generation"])
    seen = sorted(proved)
    by = [ProvedBy.CERTS] * len(seen)
    for delivery in await tx.rows("prove_deliveries", secret, seen, by, row["generation"]):
        detail = {
            "target": delivery["target_id"],
            "generation": row["generation"],
            "by": delivery["proved_by"],
        }
        await audit.append(tx, action="delivery.proved", actor=actor, subject=secret, detail=detail)


async def _offer_again(
    tx: Transaction,
    roll_out: PayloadRollOut,
    contradicted: Collection[TargetId],
    ours: Collection[TargetId],
) -> None:
    """Offer a bundle as other bytes, to be judged anew, to who refused it or has the one before all the same.

    At once the first time where it took it; later, and where it refused it, less and less often. Of the other
    kinds there are no other bytes. Who has come to that since the Deliveries were locked (``ours``) has the
    next look.
    """
    if roll_out.kind is not Kind.VALIDATION_CONTEXT:
        return
    again = False
    for item in roll_out.offered:
        if item.target.id not in ours:
            continue
        keeps = item.target.id in contradicted and _has_had_time(item, roll_out.generation)
        if not keeps and item.refused != roll_out.generation:
            continue
        waited = item.unchanged_for if item.salted_for is None else item.salted_for
        if (keeps and item.salt == 0) or waited >= again_after(item.salt):
            again |= await tx.value("offer_again", item.target.id, roll_out.secret, item.salt) is not None
    if again:
        await feed.tell_secret(tx, roll_out.secret)


def _has_had_time(item: Live, generation: int) -> bool:
    """Whether a Target took it so long ago that it must have it loaded."""
    took = (item.accepted or 0) >= generation and item.accepted_for is not None
    return took and item.accepted_for is not None and item.accepted_for >= SWITCHING


def _situation(
    roll_out: PayloadRollOut,
    contradicted: Collection[TargetId],
    unasked: Collection[TargetId],
    *,
    known: bool,
) -> Situation:
    return Situation(
        stage=roll_out.stage,
        voices=[
            Voice(
                target=item.target.id,
                speaker=_speaker(item),
                standing=_standing(item, roll_out.generation, contradicted, unasked),
                witness=item.accepted == roll_out.before and item.stale_since is None,
                asked_for=roll_out.asked.get(item.target.id),
            )
            for item in roll_out.live
        ],
        proof=WORD,
        way_back=WayBack.NONE if roll_out.before is None else WayBack.OPEN,
        known=known,
        frozen=roll_out.frozen,
    )


def _standing(
    item: Live, generation: int, contradicted: Collection[TargetId], unasked: Collection[TargetId]
) -> Standing:
    """Say the same while it rolls out, of a Target that contradicts itself, or was not asked yet."""
    said = standing(item, generation)
    if said is not Standing.ACCEPTED:
        return said
    if item.target.id in contradicted:
        twice = item.salt > 0 and _has_had_time(item, generation)
        return Standing.DIFFERENT if twice else Standing.SILENT
    return Standing.SILENT if item.target.id in unasked else said


def standing(item: Live, generation: int) -> Standing:
    """Say what is known of a Target about a version of a payload."""
    if (item.proved or 0) >= generation:
        return Standing.PROVED
    if item.refused == generation and item.accepted != generation:
        return Standing.REFUSED
    if (item.accepted or 0) >= generation and not item.divided(generation):
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
    crashpoint("payload.ending")
    detail = evidence | {"generation": roll_out.generation, "outcome": outcome}
    await audit.append(tx, action="payload.completed", actor=actor, subject=roll_out.secret, detail=detail)
    await feed.tell_secret(tx, roll_out.secret)


def _proved(item: Live, roll_out: PayloadRollOut) -> bool:
    return (item.proved or 0) >= roll_out.generation


def _refusals(roll_out: PayloadRollOut, decision: Decision) -> dict[str, Any]:
    said = [
        f"{item.target.name}: {item.refusal if item.refused == roll_out.generation else item.probe_error}"
        for item in roll_out.live
        if item.target.id in decision.targets
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
        stage=Stage(row["stage"]),
        frozen=row["frozen"],
        age=row["age"],
        asked={
            TargetId(item["target_id"]): item["asked_for"]
            for item in await tx.rows("payload_canaries", row["secret"], row["generation"])
        },
        live=await targets.live_in(tx, row["secret"], grace=grace),
    )
