"""Roll-outs: Rotations whose new Certificate is stored, until enough Targets are proved or it is taken back.

Every transaction locks the Secret's row first. What is done next is `lifecycle.rollout.decide`'s word, asked
on what the transaction itself reads: a Target that came meanwhile counts.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict
from sds_server.inventory import (
    audit,
    certificates,
    deliveries,
    feed,
    freezes,
    rotations,
    secrets,
    targets,
    voices,
)
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.voices import Before, Look, RollOut
from sds_server.lifecycle import rollout
from sds_server.lifecycle.rollout import Action, Decision, WayBack
from sds_server.lifecycle.states import Event
from sds_server.model import (
    CertificateId,
    Outcome,
    RotationId,
    SecretName,
    Stage,
    TargetId,
)

NO_GRACE: Final = timedelta(0)

OVER: Final = Decision(Action.WAIT, "over")
"""Nothing of the kind is being rolled out any more."""


async def claim(database: Database, *, every: timedelta, limit: int) -> Sequence[SecretName]:
    """Return Secrets whose roll-out wants a look, which no other replica takes for ``every``."""
    async with database.transaction() as tx:
        return [SecretName(row["secret"]) for row in await tx.rows("claim_looks", every, limit)]


async def get(database: Database, secret: str, *, grace: timedelta = NO_GRACE) -> RollOut | None:
    """Return what the Secret's Targets must be proved to serve; None: nothing is being rolled out.

    ``grace``: for so much longer a Target counts that was only seen, as nobody could have seen it.
    """
    async with database.transaction() as tx:
        row = await tx.row("roll_out", secret)
        return None if row is None else await _roll_out(tx, SecretName(secret), row, grace)


async def settle(
    database: Database,
    roll_out: RollOut,
    looks: Iterable[Look] = (),
    *,
    known: bool,
    actor: str,
    grace: timedelta = NO_GRACE,
) -> Decision:
    """Write what was seen, decide what is next, and do it.

    ``known`` says that an empty live set may be believed.
    """
    looks = sorted(looks, key=lambda look: look.target)
    decision = OVER
    for whole in (False, True):
        async with database.transaction() as tx:
            decision = await _settle(tx, roll_out, looks, known=known, actor=actor, grace=grace, whole=whole)
        if decision.action is not Action.ROLL_BACK:
            break
    return decision


async def _settle(
    tx: Transaction,
    roll_out: RollOut,
    looks: Sequence[Look],
    *,
    known: bool,
    actor: str,
    grace: timedelta,
    whole: bool,
) -> Decision:
    """Do what is decided; but take back only where all Deliveries were locked from the start (``whole``)."""
    secret = roll_out.secret
    if await secrets.lock_if_there(tx, secret) is None:
        return OVER
    row = await tx.row("roll_out", secret)
    if row is None or row["new_cert_id"] != roll_out.new_cert_id:
        return OVER
    row = dict(row)
    await _thaw(tx, row, actor=actor)
    ours = await deliveries.lock(
        tx, secret, None if whole else [look.target for look in looks], roll_out.generation
    )
    await _write(tx, roll_out, looks, actor=actor)
    now = await _roll_out(tx, secret, row, grace)
    await _offer_again(tx, now, ours)
    decision = await _decide(row, now, known=known)
    if decision.action is Action.ROLL_BACK and not whole:
        return decision
    await _do(tx, row, now, decision, actor=actor)
    # Who is left may be nobody: then nobody would say anything more.
    if decision.action is Action.FAN_OUT:
        now = replace(now, stage=Stage.FLEET)
        last = await _decide(row, now, known=known)
        if last.action is Action.COMPLETE:
            await _do(tx, row, now, last, actor=actor)
            return last
    return decision


async def begin(
    tx: Transaction, secret: str, rotation: RotationId, cert_id: CertificateId, *, actor: str
) -> None:
    """Choose the canaries of a Certificate that was just stored; without any it is offered to all.

    A Secret that was frozen meanwhile has no canaries, and nobody is offered it before it is resumed.
    """
    row = await tx.row("roll_out", secret)
    assert row is not None  # noqa: S101 - stored in this transaction
    await tx.rows("forget_canaries", rotation)
    now = await _roll_out(tx, SecretName(secret), row, NO_GRACE)
    await tx.rows("offer_plainly", secret)
    if voices.way_back(row) is WayBack.NONE:
        return
    if row["frozen"]:
        await tx.rows("to_canaries", rotation)
        return
    situation = voices.situation(row, now, known=True)
    order = sorted(
        (voice.target for voice in situation.voices), key=lambda target: voices.rank(cert_id, target)
    )
    chosen = rollout.first_canaries(situation.voices, order)
    if chosen:
        await tx.rows("to_canaries", rotation)
        await _ask(tx, now, chosen, "first", actor=actor)


async def reject(
    database: Database, secret: str, cert_id: CertificateId, *, error: Mapping[str, Any], actor: str
) -> bool:
    """Give a Certificate up that must not be served.

    The one before is current again, and the Rotation tries once more. Returns False where the Certificate is
    no longer being rolled out.
    """
    async with database.transaction() as tx:
        if await secrets.lock_if_there(tx, secret) is None:
            return False
        return await rotations.take_back(tx, secret, cert_id, error=error, actor=actor)


async def roll_back(database: Database, secret: str, *, actor: str) -> RotationId:
    """Go back to the Certificate before, as an operator wants; where we asked, that is the answer.

    Raises:
        NotFound: there is no such Secret.
        Conflict: nothing is being rolled out, or there is no way back.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, secret)
        row = await tx.row("roll_out", secret)
        if row is None:
            raise Conflict(
                f"secret {secret}: nothing is being rolled out", hint=f"`certvoy why {secret}` says how it is"
            )
        if voices.way_back(row) is WayBack.NONE:
            raise Conflict(
                f"secret {secret}: there is no certificate to go back to: {voices.no_way_back(row)}",
                hint=f"`certvoy rotate {secret}` gets another one",
            )
        what = f"{actor} took generation {row['generation']} back"
        error = {"what": what, "rule": "operator", "hint": f"`certvoy rotate {secret}` tries again at once"}
        await rotations.take_back(tx, secret, row["new_cert_id"], error=error, actor=actor)
        await freezes.answer_in(tx, secret, actor=actor)
        return RotationId(row["id"])


async def _decide(row: Row, roll_out: RollOut, *, known: bool) -> Decision:
    def decide() -> Decision:
        return rollout.decide(voices.situation(row, roll_out, known=known))

    return decide() if len(roll_out.live) < targets.MANY else await asyncio.to_thread(decide)


# What was seen


async def _write(tx: Transaction, roll_out: RollOut, looks: Sequence[Look], *, actor: str) -> None:
    """Write what was seen; the Deliveries are locked."""
    secret, generation = roll_out.secret, roll_out.generation
    moved = await _moved(tx, roll_out, looks)
    looks = [look for look in looks if look.target not in moved]
    unproved = [look for look in looks if look.by is None]
    if unproved:
        await tx.rows(
            "note_looks",
            secret,
            [look.target for look in unproved],
            [look.error for look in unproved],
            [look.served for look in unproved],
            generation,
        )
    proved = [look for look in looks if look.by is not None]
    newly = await tx.rows(
        "prove_deliveries", secret, [look.target for look in proved], [look.by for look in proved], generation
    )
    if newly:
        crashpoint("delivery.proving")
        await certificates.move(tx, roll_out.new_cert_id, Event.CONFIRMED, actor=actor, subject=secret)
    contents = await audit.contents_of(tx, [(secret, generation)] if newly else [])
    for delivery in newly:
        await audit.append(
            tx,
            action="delivery.proved",
            actor=actor,
            subject=secret,
            cert_id=roll_out.new_cert_id,
            detail={
                "target": delivery["target_id"],
                "generation": generation,
                "by": delivery["proved_by"],
                **contents[secret, generation].detail,
            },
        )


async def _moved(tx: Transaction, roll_out: RollOut, looks: Sequence[Look]) -> Collection[TargetId]:
    """Return whose address was changed during the look: it says nothing of the one that they have now."""
    if not looks:
        return ()
    seen = {look.target for look in looks}
    at = [item.target for item in roll_out.live if item.target.id in seen]
    rows = await tx.rows(
        "moved",
        [target.id for target in at],
        [target.probe for target in at],
        [target.admin for target in at],
        [target.proxy_protocol for target in at],
        [target.http3 for target in at],
    )
    return {TargetId(row["id"]) for row in rows}


async def _thaw(tx: Transaction, row: dict[str, Any], *, actor: str) -> None:
    """End a freeze by which we asked, where time has answered: there is nothing to go back to any more."""
    if row["frozen"] and voices.way_back(row) is WayBack.NONE:
        row["frozen"] = not await freezes.answer_in(tx, row["secret"], actor=actor)


async def _offer_again(tx: Transaction, roll_out: RollOut, ours: Collection[TargetId]) -> None:
    """Offer it as other bytes, to be judged anew, to who refused it or serves the one before all the same.

    Who has come to that since the Deliveries were locked (``ours``) has the next look.
    """
    again = False
    for item in roll_out.unproved:
        if item.target.id in ours and voices.wants_other_bytes(item, roll_out):
            again |= await tx.value("offer_again", item.target.id, roll_out.secret, item.salt) is not None
    if again:
        await feed.tell_secret(tx, roll_out.secret)


# What is done


async def _do(tx: Transaction, row: Row, roll_out: RollOut, decision: Decision, *, actor: str) -> None:
    match decision.action:
        case Action.WAIT:
            pass
        case Action.ASK_MORE:
            await _ask(tx, roll_out, decision.targets, decision.reason, actor=actor)
            await feed.tell_secret(tx, roll_out.secret)
        case Action.FAN_OUT:
            await _fan_out(tx, roll_out, decision.reason, actor=actor)
        case Action.ROLL_BACK:
            error = voices.refusals(roll_out, decision)
            await rotations.take_back(tx, roll_out.secret, roll_out.new_cert_id, error=error, actor=actor)
            crashpoint("rotation.rolling_back")
        case Action.ASK_OPERATOR:
            await freezes.freeze_in(
                tx, roll_out.secret, reason=voices.question(roll_out, decision), actor=actor
            )
        case Action.COMPLETE:
            await _complete(tx, row, roll_out, Outcome.COMPLETED, actor=actor)
        case Action.COMPLETE_UNOBSERVED:
            await _complete(tx, row, roll_out, Outcome.COMPLETED_UNOBSERVED, actor=actor)


async def _ask(
    tx: Transaction, roll_out: RollOut, chosen: Sequence[TargetId], reason: str, *, actor: str
) -> None:
    await tx.rows("add_canaries", roll_out.rotation, list(chosen))
    crashpoint("canaries.asking")
    await audit.append(
        tx,
        action="rotation.canaries",
        actor=actor,
        subject=roll_out.secret,
        cert_id=roll_out.new_cert_id,
        detail={"rotation": roll_out.rotation, "reason": reason, "targets": voices.names(roll_out, chosen)},
    )


async def _fan_out(tx: Transaction, roll_out: RollOut, reason: str, *, actor: str) -> None:
    if await tx.value("fan_out", roll_out.rotation) is None:
        return
    crashpoint("rotation.fanning_out")
    await audit.append(
        tx,
        action="rotation.fanned_out",
        actor=actor,
        subject=roll_out.secret,
        cert_id=roll_out.new_cert_id,
        detail={"rotation": roll_out.rotation, "reason": reason},
    )
    await feed.tell_secret(tx, roll_out.secret)


async def _complete(tx: Transaction, row: Row, roll_out: RollOut, outcome: Outcome, *, actor: str) -> None:
    await certificates.move(tx, roll_out.new_cert_id, Event.CONFIRMED, actor=actor, subject=roll_out.secret)
    await rotations.end(
        tx,
        row,
        outcome,
        Event.COMPLETED,
        actor=actor,
        secret=roll_out.secret,
        evidence=voices.evidence(row, roll_out),
    )
    crashpoint("rotation.ending")
    await feed.tell_secret(tx, roll_out.secret)


async def _roll_out(tx: Transaction, secret: SecretName, row: Row, grace: timedelta) -> RollOut:
    asked = await tx.rows("canaries", row["id"])
    before = row["before_generation"]
    return RollOut(
        rotation=RotationId(row["id"]),
        secret=secret,
        new_cert_id=CertificateId(row["new_cert_id"]),
        generation=row["generation"],
        fingerprint=row["fingerprint"],
        serial_number=row["serial_number"],
        before=None
        if before is None
        else Before(before, row["before_fingerprint"], row["before_serial_number"]),
        stage=Stage(row["stage"]),
        age=row["age"],
        domains=tuple(row["domains"]),
        on_demand=row["on_demand"],
        asked={TargetId(item["target_id"]): item["asked_for"] for item in asked},
        live=await targets.live_in(tx, secret, grace=grace),
    )
