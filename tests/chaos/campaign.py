"""Rotation after rotation, a fault in each, judged after each. A seed decides what goes wrong, and when."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from sds_server.errors import CertvoyError
from tests.chaos.checker import Checker
from tests.chaos.clients import Clients
from tests.chaos.faults import HOLDS_BACK, KINDS, ONLY_WWW, ROTATES, random_kill
from tests.chaos.stage import SECRETS, XDS, Stage
from tests.chaos.targets import by_secret
from tests.support.control_plane import until

CONVERGED_S = 180.0
"""Within that, everything is as it should be after a fault has been healed; measured it is a few seconds."""

HELD_S = (0.5, 2.5)
"""How long a fault lasts."""

LATE_S = (0.0, 1.0)
"""How long after the start of a rotation it begins, where it does not begin before."""

KILL_EVERY_S = (2.0, 8.0)
"""In a soak, between random kills."""

AGAIN_S = 2.0
"""Between two times that the operator says `certvoy rotate` to a rotation that waits after a failure."""


@dataclass
class Figures:
    """What is told at the end."""

    seed: int
    rotations: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    false_completes: int = 0
    handshakes: int = 0
    failed: int = 0
    excused: int = 0
    resent_after_refusal: int = 0
    median_convergence_s: float = 0.0
    worst_convergence_s: float = 0.0
    worst_after: str = ""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return it for a file."""
        return asdict(self)


async def run(
    *, seed: int, rotations: int | None, seconds: float | None = None, kills: bool = False, say: bool = False
) -> Figures:
    """Run so many rotations, or for so long, whatever ends first; never raises for what it found."""
    campaign = Campaign(seed, say=say)
    with tempfile.TemporaryDirectory(prefix="certvoy-chaos-") as directory:
        return await campaign.run(Path(directory), rotations=rotations, seconds=seconds, kills=kills)


class Campaign:
    """One run."""

    def __init__(self, seed: int, *, say: bool) -> None:
        self._rng = Random(seed)
        self._say = say
        self._spared = asyncio.Lock()
        self._convergence: list[float] = []
        self.figures = Figures(seed)

    async def run(
        self, directory: Path, *, rotations: int | None, seconds: float | None, kills: bool
    ) -> Figures:
        """See `run`."""
        started = time.monotonic()
        stage = Stage(directory)
        killer: asyncio.Task[None] | None = None
        try:
            await stage.start()
            checker = Checker(stage.postgres.connect)
            async with Clients(stage.root, stage.targets.values()) as clients:
                for secret in SECRETS:
                    await self._converge(stage, checker, secret)
                if kills:
                    killer = asyncio.create_task(self._kill(stage))
                for number, kind in enumerate(self._kinds(), 1):
                    over = seconds is not None and time.monotonic() - started >= seconds
                    if over or (rotations is not None and number > rotations):
                        break
                    await self._rotate(number, kind, stage, clients, checker)
                    if self.figures.violations:
                        break
                self._count(stage, clients, started)
            await checker.close()
        finally:
            if killer is not None:
                async with self._spared:
                    killer.cancel()
                await asyncio.gather(killer, return_exceptions=True)
            await stage.stop()
        return self.figures

    def _kinds(self) -> Iterator[str]:
        """Each kind once in an order of the seed's, then all again in another."""
        while True:
            yield from self._rng.sample(list(KINDS), len(KINDS))

    async def _rotate(self, number: int, kind: str, stage: Stage, clients: Clients, checker: Checker) -> None:
        rng = Random(self._rng.random())  # however long it takes, the next one is the seed's
        secret = "www" if kind in ONLY_WWW else rng.choice(["www", "www", "www", "api"])
        early, late_s, held_s = rng.random() < 0.5, rng.uniform(*LATE_S), rng.uniform(*HELD_S)
        since = time.time()
        what = f"seed {self.figures.seed}, rotation {number} ({kind}, {secret})"
        try:
            async with AsyncExitStack() as fault:
                if kind not in ONLY_WWW:
                    await fault.enter_async_context(self._spared)
                if not early and kind not in ROTATES | HOLDS_BACK:
                    await self._order(stage, secret)
                    await asyncio.sleep(late_s)
                await fault.enter_async_context(KINDS[kind](stage, clients, rng, secret))
                ordered = early or kind in HOLDS_BACK
                if ordered and kind not in ROTATES:
                    with contextlib.suppress(OSError):  # who was killed takes no orders: below, once more
                        await self._order(stage, secret)
                await asyncio.sleep(held_s)
            if kind == "refusing_client" or not await self._begun(checker, secret, since):
                await until(lambda: self._ordered(stage, secret), timeout_s=CONVERGED_S)
            healed = time.monotonic()
            await self._converge(stage, checker, secret)
            took = time.monotonic() - healed
            found = await checker.violations(secret, by_secret(stage.targets, secret), since=since)
        except (TimeoutError, OSError, CertvoyError) as e:
            found = [f"not well again within {CONVERGED_S:g} s: {e!r}"]
            took = CONVERGED_S
        found += clients.failures
        self.figures.rotations += 1
        self.figures.faults[kind] = self.figures.faults.get(kind, 0) + 1
        self.figures.violations += [f"{what}: {violation}" for violation in found]
        self.figures.false_completes += sum("FALSE COMPLETE" in violation for violation in found)
        self._convergence.append(took)
        if took >= self.figures.worst_convergence_s:
            self.figures.worst_convergence_s, self.figures.worst_after = took, kind
        if self._say:
            print(
                f"{number:4} {secret} {kind:16} held {held_s:.1f} s, converged in {took:.1f} s",
                *found,
                flush=True,
            )

    async def _order(self, stage: Stage, secret: str) -> None:
        await stage.admin("POST", f"/v1/secrets/{secret}/rotations", {})

    async def _ordered(self, stage: Stage, secret: str) -> bool:
        try:
            await self._order(stage, secret)
        except OSError:
            return False
        return True

    async def _begun(self, checker: Checker, secret: str, since: float) -> bool:
        """Whether there was a rotation at all: an order may have met nobody."""
        rotations = await checker.rotations(secret)
        return any(row["completed_at"] is None or row["completed_at"] > since for row in rotations)

    async def _converge(self, stage: Stage, checker: Checker, secret: str) -> None:
        """Wait until the newest rotation is complete and every target is seen to serve its leaf."""
        hastened = 0.0
        targets = by_secret(stage.targets, secret)

        async def converged() -> bool:
            nonlocal hastened
            newest = (await checker.rotations(secret))[-1]
            if newest["outcome"] == "completed_unobserved":
                raise OSError(f"rotation {newest['id']} is complete, and nobody was asked")
            if newest["outcome"] != "completed":
                # Failed, or rolled back: an operator who has mended the cause does not wait for the next try.
                waits = newest["failed"] and not newest["rolling_out"] and not newest["leased"]
                if (waits or newest["outcome"]) and time.monotonic() - hastened > AGAIN_S:
                    hastened = time.monotonic()
                    await self._ordered(stage, secret)
                return False
            return all(
                not target.excused and target.runs and target.runs[-1].fingerprint == newest["fingerprint"]
                for target in targets
            )

        await until(converged, timeout_s=CONVERGED_S)
        # One more look of each, begun now: what a false completion would show is on record.
        marks = {target.name: time.time() for target in targets}

        async def seen() -> bool:
            return all(target.excused or target.seen_since(marks[target.name]) for target in targets)

        await until(seen, timeout_s=CONVERGED_S)

    async def _kill(self, stage: Stage) -> None:
        rng = Random(self.figures.seed + 1)
        while True:
            await asyncio.sleep(rng.uniform(*KILL_EVERY_S))
            victim = await random_kill(stage, rng, self._spared)
            self.figures.kills[victim] = self.figures.kills.get(victim, 0) + 1

    def _count(self, stage: Stage, clients: Clients, started: float) -> None:
        figures = self.figures
        figures.handshakes, figures.excused = clients.done, clients.excused
        figures.failed = len(clients.failures)
        figures.resent_after_refusal = stage.impostors[XDS].resent
        figures.seconds = round(time.monotonic() - started, 1)
        taken = sorted(self._convergence) or [0.0]
        figures.median_convergence_s = round(taken[len(taken) // 2], 2)
        figures.worst_convergence_s = round(figures.worst_convergence_s, 2)
