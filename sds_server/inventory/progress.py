"""How Rotations go: read, never written. Their steps are their audit entries: history has one source."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sds_server.errors import NotFound
from sds_server.inventory import history
from sds_server.inventory.database import Database, Row
from sds_server.model import Outcome, Reason, Rotation, RotationId, SecretName, Stage

STEPS_MAX: Final = 500
NEWEST: Final = RotationId(2**63 - 1)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a Rotation; ``name`` is the audit's action."""

    name: str
    at: datetime
    actor: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reached:
    """How many Targets of the live set have got how far with the Rotation's new Certificate."""

    targets: int
    sent: int
    accepted: int
    refused: int
    proved: int


async def latest(database: Database, secret: str) -> Rotation:
    """Return the Secret's newest Rotation.

    Raises:
        NotFound: it has none.
    """
    async with database.transaction() as tx:
        rows = await tx.rows("rotations", secret, None, NEWEST, 1)
    if not rows:
        raise NotFound(f"secret {secret}: it has no rotation")
    return _rotation(rows[0])


async def get(database: Database, rotation: RotationId) -> tuple[Rotation, Sequence[Step], Reached]:
    """Return a Rotation with its steps, oldest first, and how far its Targets are.

    Raises:
        NotFound: there is none of that id.
    """
    async with database.transaction() as tx:
        row = await tx.row("rotation", rotation)
        if row is None:
            raise NotFound(
                f"rotation {rotation}: there is none of that id", hint="GET /v1/rotations lists them"
            )
        steps = await tx.rows("rotation_steps", row["secret"], row["triggered_at"], rotation, STEPS_MAX)
        reached = await tx.row("rotation_reached", row["secret"], row["new_cert_id"])
        assert reached is not None  # noqa: S101 - an aggregate has one row
    return _rotation(row), [_step(step) for step in steps], Reached(**dict(reached))


async def page(
    database: Database, *, before: RotationId, limit: int, secret: str | None, still_open: bool | None
) -> Sequence[Rotation]:
    """Return Rotations, newest first, those before ``before``."""
    async with database.transaction() as tx:
        return [_rotation(row) for row in await tx.rows("rotations", secret, still_open, before, limit)]


def _rotation(row: Row) -> Rotation:
    return Rotation(
        id=RotationId(row["id"]),
        secret=SecretName(row["secret"]),
        reason=Reason(row["reason"]),
        cert_id=row["cert_id"],
        new_cert_id=row["new_cert_id"],
        attempts=row["attempts"],
        triggered_at=row["triggered_at"],
        completed_at=row["completed_at"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        next_attempt_at=row["next_attempt_at"],
        last_error=row["last_error"],
        leased=row["leased"],
        stage=Stage(row["stage"]),
        canaries=tuple(row["canaries"]),
        evidence=row["evidence"],
    )


def _step(row: Row) -> Step:
    return Step(
        name=row["action"],
        at=row["timestamp"],
        actor=row["actor"],
        detail=history.detail(row["payload"]),
    )
