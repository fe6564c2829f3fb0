"""Roll-outs for tests: what handshakes would have shown, without a listener."""

from collections.abc import Iterable

from sds_server.inventory import roll_outs
from sds_server.inventory.database import Database
from sds_server.inventory.voices import Look, RollOut
from sds_server.lifecycle.prover import ENDED
from sds_server.model import Outcome, ProvedBy, TargetId


async def confirm(
    database: Database, roll_out: RollOut, *, proved: Iterable[int], actor: str, unobserved: bool = False
) -> Outcome | None:
    """Let these Targets be proved; return how the Rotation ended, or None while it is open."""
    looks = [Look(TargetId(target), by=ProvedBy.HANDSHAKE) for target in proved]
    decision = await roll_outs.settle(database, roll_out, looks, known=unobserved, actor=actor)
    return ENDED.get(decision.action)


async def note(database: Database, roll_out: RollOut, target: int, error: str) -> None:
    """Let a look at the Target have failed."""
    await roll_outs.settle(database, roll_out, [Look(TargetId(target), error=error)], known=False, actor="r")
