"""The prover: a Rotation is complete when a handshake at each Target of the live set shows the new leaf.

An ACK is a reason to look, never a proof. A Target that cannot be reached, or serves something else, keeps
the Rotation open and is named.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.errors import CallerError
from sds_server.inventory import deliveries, roll_outs, targets
from sds_server.inventory.database import Database
from sds_server.inventory.roll_outs import RollOut
from sds_server.inventory.targets import Live
from sds_server.log import get
from sds_server.model import Outcome, RotationId, TargetId, TargetKind
from sds_server.targets.probe import ProbeFailed, covered, served_fingerprint

AT_ONCE: Final = 64
"""Probes in flight; each is a full handshake."""

SECRETS_A_STEP: Final = 100
"""The next step begins behind the last of them, so that Rotations that stay open hide no later one."""

NO_ROTATION: Final = RotationId(0)

SOON_S: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""After an ACK Envoy's workers take some milliseconds to switch: look again so soon before the next step."""

NO_ADDRESS: Final = "no address to probe: `certvoy targets add NAME --probe HOST:PORT`"
NOT_REPORTED: Final = "its agent has not reported it as proved, and there is no address to probe"

_log = get("prover")


class Prover:
    """Probes what is being rolled out and completes what is proved."""

    def __init__(self, *, database: Database, settle: timedelta, clock: Clock, actor: str) -> None:
        self._database = database
        self._settle_s = settle.total_seconds()
        self._clock = clock
        self._actor = actor
        self._started = clock.monotonic()
        self._probes = asyncio.Semaphore(AT_ONCE)
        self._accepted: set[str] = set()
        self._after = NO_ROTATION
        self.on_hint: Callable[[], None] = lambda: None
        self.on_look: Callable[[str], None] = lambda _result: None
        self.on_proof: Callable[[float], None] = lambda _seconds: None
        self.on_end: Callable[[Outcome], None] = lambda _outcome: None

    def accepted(self, secret: str) -> None:
        """Some Target has accepted a new Certificate: look at once."""
        self._accepted.add(secret)
        self.on_hint()

    async def step(self) -> None:
        """Look at every Rotation that is being rolled out.

        Raises:
            Unavailable: the database does not answer.
        """
        accepted, self._accepted = self._accepted, set()
        found = await roll_outs.page(self._database, after=self._after, limit=SECRETS_A_STEP)
        self._after = found[-1].rotation if found else NO_ROTATION
        others = [item.secret for item in found if item.secret not in accepted]
        # All at once, and each to its end: a Target that answers nobody keeps no other Secret waiting.
        results = await asyncio.gather(
            *(self.prove(secret, soon=True) for secret in sorted(accepted)),
            *(self.prove(secret) for secret in others),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def prove(self, secret: str, *, soon: bool = False) -> Outcome | None:
        """Probe the Targets of one Secret that are not proved yet; None: its Rotation stays open.

        ``soon``: a Target has just accepted, so that one which still shows the old leaf is worth another look
        at once.
        """
        roll_out = await roll_outs.get(self._database, secret)
        if roll_out is None:
            return None
        read_at = self._clock.monotonic()
        live = await targets.live_set(self._database, secret)
        missing = [target for target in live if (target.proved or 0) < roll_out.generation]
        async with asyncio.TaskGroup() as group:
            looks = {
                item.target.id: group.create_task(self._look(roll_out, item, soon=soon)) for item in missing
            }
        errors = {target: error for target, look in looks.items() if (error := look.result()) is not None}
        await self._note(roll_out, errors)
        proved = [target for target in looks if target not in errors]
        outcome = await roll_outs.confirm(
            self._database,
            roll_out,
            proved=proved,
            actor=self._actor,
            unobserved=self._settled,
        )
        for _ in proved:
            self.on_proof(roll_out.age.total_seconds() + self._clock.monotonic() - read_at)
        if outcome is not None:
            self.on_end(outcome)
            _log.info(
                "rotation.ended",
                secret=secret,
                outcome=outcome,
                rotation=roll_out.rotation,
                generation=roll_out.generation,
            )
        return outcome

    @property
    def _settled(self) -> bool:
        """Whether a live set that is empty may be believed: proxies have had time to come back to us."""
        return self._clock.monotonic() - self._started >= self._settle_s

    async def _look(self, roll_out: RollOut, item: Live, *, soon: bool) -> str | None:
        """Return why the Target is not proved; None: it is."""
        if item.target.probe is None:
            self.on_look("unprobed")
            return NO_ADDRESS if item.target.kind is TargetKind.ENVOY else NOT_REPORTED
        error: str | None = None
        for pause_s in (*(SOON_S if soon else ()), None):
            async with self._probes:
                error = await self._handshakes(roll_out, item.target.probe)
            if error is None or pause_s is None:
                break
            await self._clock.sleep(pause_s)
        return error

    async def _handshakes(self, roll_out: RollOut, address: str) -> str | None:
        for domain in roll_out.domains:
            try:
                fingerprint = await served_fingerprint(address, covered(domain))
            except (ProbeFailed, CallerError) as e:
                self.on_look("failed")
                return str(e)
            if fingerprint != roll_out.fingerprint:
                self.on_look("different")
                served, wanted = fingerprint[:16], roll_out.fingerprint[:16]
                return f"{address} serves {served}... for {domain}, not {wanted}..."
        self.on_look("proved")
        return None

    async def _note(self, roll_out: RollOut, errors: Mapping[TargetId, str]) -> None:
        for target, error in errors.items():
            await deliveries.note_probe_error(self._database, target, roll_out.secret, error)
            _log.debug("delivery.unproved", secret=roll_out.secret, target=target, error=error)
