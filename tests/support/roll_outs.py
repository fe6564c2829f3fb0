"""Roll-outs for tests: what handshakes would have shown, without a listener."""

from collections.abc import Iterable

from sds_server.inventory import progress, roll_outs, rotations, targets
from sds_server.inventory.database import Database
from sds_server.inventory.voices import Look, RollOut
from sds_server.lifecycle.prover import ENDED
from sds_server.model import Outcome, ProvedBy, Reason, TargetId
from tests.support.issuances import Issuances


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


async def rolling_out(issuances: Issuances, *names: str) -> tuple[list[str], list[str]]:
    """Let www be rolled out: these Targets serve generation 1, and canaries are offered generation 2.

    Returns the names of the canaries, and of all others.
    """
    database, declared = issuances.database, await issuances.declare()
    ids = [
        await targets.register(
            database, name, probe="127.0.0.1:1", identity=None, node_id=None, serves=["www"], actor="test"
        )
        for name in names
    ]
    await issuances.issue(declared)
    await confirm(database, await roll_outs.get(database, "www"), proved=ids, actor="test")
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issuances.issue(declared)
    canaries = (await progress.latest(database, "www")).canaries
    return list(canaries), [name for name in names if name not in canaries]
