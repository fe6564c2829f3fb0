"""Pushes: which Deliveries a replica brings to their agents now, and what came of it.

What is pushed is what a fetch would get: the generation that the Target is offered, as the bytes that it is
offered it as. The agent's word is a report like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sds_server.inventory import audit, targets
from sds_server.inventory.database import Database, Transaction
from sds_server.model import SecretName, Target, TargetKind


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to push, for a while: a Secret to a Target, this generation as these bytes (``salt``).

    ``attempt`` is how often these were tried, with this time.
    """

    target: Target
    secret: SecretName
    generation: int
    salt: int
    attempt: int


async def claim(database: Database, *, lease_for: timedelta, limit: int) -> Sequence[Claim]:
    """Return what this replica pushes now, and nobody else for ``lease_for``."""
    async with database.transaction() as tx:
        return [
            Claim(
                target=targets.from_row(row),
                secret=SecretName(row["secret"]),
                generation=row["push_generation"],
                salt=row["push_salt"],
                attempt=row["push_attempts"],
            )
            for row in await tx.rows("claim_pushes", lease_for, limit)
        ]


async def answered(
    database: Database, pushed: Claim, *, kind: TargetKind | None, again: timedelta | None
) -> None:
    """Write that the agent has these bytes and said what became of them; ``again``: ask once more after that.

    ``kind``: which program serves them, by the agent's word. It counts where nobody has named one.

    Asking is pushing the same: an agent that has it already looks what is served, and says so.
    """
    async with database.transaction() as tx:
        # A Target before its Deliveries, as whoever writes them locks it.
        if kind is not None and kind is not pushed.target.kind:
            await tx.value("learn_kind", pushed.target.id, kind)
        await tx.value("push_answered", *_key(pushed), again)


async def failed(
    database: Database, pushed: Claim, *, error: str, pause: timedelta, sent: bool, impostor: bool, actor: str
) -> None:
    """Write why it did not get there, and when it is tried again; that of an impostor is audited.

    ``sent``: the bytes left, and nobody said what became of them. Where something else was pushed meanwhile,
    as we were frozen for longer than the lease, that is pushed anew.
    """
    async with database.transaction() as tx:
        row = await tx.row("push_failed", *_key(pushed), pause, error, sent)
        if row is None and sent:
            await tx.rows("push_overtaken", *_key(pushed))
        if sent and (row is None or row["sent"] != pushed.generation):
            await _tell_sent(tx, pushed, error, actor=actor)
        if impostor and row is not None and row["push_error"] != error:
            await audit.append(
                tx,
                action="push.impostor",
                actor=actor,
                subject=pushed.target.name,
                detail={
                    "secret": pushed.secret,
                    "push": pushed.target.push,
                    "identity": pushed.target.identity,
                    "error": error,
                },
            )


async def _tell_sent(tx: Transaction, pushed: Claim, error: str, *, actor: str) -> None:
    """Audit that a pair left, and nobody said what became of it; a word would be audited as such."""
    about = (pushed.secret, pushed.generation)
    content = (await audit.contents_of(tx, [about]))[about]
    await audit.append(
        tx,
        action="delivery.sent",
        actor=actor,
        subject=pushed.secret,
        cert_id=content.cert_id,
        detail={
            "target": pushed.target.id,
            "identity": pushed.target.identity,
            "generation": pushed.generation,
            "push": pushed.target.push,
            "error": error,
            **content.detail,
        },
    )


def _key(pushed: Claim) -> tuple[int, str, int, int]:
    return pushed.target.id, pushed.secret, pushed.generation, pushed.salt
