"""The prover: looks what the Targets of a roll-out serve, and has decided what that means.

An ACK is a reason to look, never a proof. A proof is a TLS handshake that shows the new leaf, Envoy's own
statement where only its admin interface is reachable, or an agent's report where nobody else can look.
"""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import CertvoyError
from sds_server.inventory import roll_outs
from sds_server.inventory.database import Database
from sds_server.inventory.targets import Live
from sds_server.inventory.voices import Look, RollOut
from sds_server.lifecycle import looks
from sds_server.lifecycle.rollout import Action, Decision
from sds_server.lifecycle.together import to_their_ends
from sds_server.log import get
from sds_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE: Final = 64
"""Looks in flight, of each of the two ways in; each is a full handshake."""

SECRETS_A_STEP: Final = 100

SOON_S: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.46)
"""After an ACK Envoy's workers take some milliseconds to switch: look again so soon. In all a little more
than `rollout.SWITCHING`, so that the last look tells who serves the one before all the same."""

ANSWERS_S: Final = 1.0
"""Who takes longer for a look than this is not looked at again at once."""

SIGHT: Final = timedelta(hours=24)
"""Who was seen within this time before we started may still be there: nobody looked."""

ENDED: Final = {
    Action.COMPLETE: Outcome.COMPLETED,
    Action.COMPLETE_UNOBSERVED: Outcome.COMPLETED_UNOBSERVED,
}

_log = get("prover")


class Prover:
    """Looks at what is being rolled out: `hear` at what some Target said, `step` at all, now and then."""

    def __init__(
        self,
        *,
        database: Database,
        settle: timedelta,
        clock: Clock,
        actor: str,
        every: timedelta = timedelta(0),
    ) -> None:
        """``every``: how often `step` looks at one roll-out, on all replicas together."""
        self._database = database
        self._settle_s = settle.total_seconds()
        self._clock = clock
        self._actor = actor
        self._every = every
        self._sighted_at = clock.monotonic()
        self._blind_from: float | None = None
        self._well_at = clock.monotonic()
        self._hearing, self._polling = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)
        self._said: set[str] = set()
        self.on_hint: Callable[[], None] = lambda: None
        self.on_idle: Callable[[str], None] = lambda _secret: None
        """Told of a Secret of which a Target said something while nothing is being rolled out."""
        self.on_look: Callable[[str], None] = lambda _result: None
        self.on_proof: Callable[[float], None] = lambda _seconds: None
        self.on_end: Callable[[Outcome], None] = lambda _outcome: None
        self.on_roll_back: Callable[[str], None] = lambda _reason: None

    def said(self, secret: str) -> None:
        """Some Target has accepted or refused a new Certificate: look at once."""
        self._said.add(secret)
        self.on_hint()

    async def hear(self) -> None:
        """Look at the roll-outs of which a Target said something.

        Raises:
            Unavailable: the database does not answer.
        """
        said, self._said = self._said, set()
        try:
            await to_their_ends(self.prove(secret, soon=True) for secret in sorted(said))
        except CertvoyError:
            self._said |= said
            raise

    async def step(self) -> None:
        """Look at every roll-out that no replica has looked at lately.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            while found := await roll_outs.claim(self._database, every=self._every, limit=SECRETS_A_STEP):
                # All at once, and each to its end: a Target that answers nobody keeps no other waiting.
                await to_their_ends(self.prove(secret) for secret in found)
                if len(found) < SECRETS_A_STEP:
                    break
        except CertvoyError:
            self._blind()
            raise
        self._sees()

    async def prove(self, secret: str, *, soon: bool = False) -> Decision | None:
        """Look at the Targets of one Secret that are not proved yet; None: nothing is being rolled out.

        ``soon``: a Target has just said something, so that one which still shows the old leaf is worth
        another look at once.
        """
        grace = self.grace
        roll_out = await roll_outs.get(self._database, secret, grace=grace)
        if roll_out is None:
            if soon:
                self.on_idle(secret)
            return None
        read_at = self._clock.monotonic()
        # Where several call themselves alike a look reaches any of them: it waits until each has said yes.
        worth_it = [item for item in roll_out.unproved if not item.divided(roll_out.generation)]
        if soon:
            # Those that have just said yes wait for no other, who may be switched off.
            said_yes = [item for item in worth_it if item.accepted == roll_out.generation]
            worth_it = said_yes or worth_it
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._look(roll_out, item, soon=soon)) for item in worth_it]
        seen = [task.result() for task in tasks]
        crashpoint("targets.looked")
        decision = await roll_outs.settle(
            self._database, roll_out, seen, known=self.settled, grace=grace, actor=self._actor
        )
        for look in seen:
            if look.by is not None:
                self.on_proof(roll_out.age.total_seconds() + self._clock.monotonic() - read_at)
            else:
                _log.debug("delivery.unproved", secret=secret, target=look.target, error=look.error)
        self._tell(roll_out, decision)
        return decision

    # How much we know

    @property
    def settled(self) -> bool:
        """Whether a live set that is empty may be believed: proxies have had time to come back to us."""
        return self._clock.monotonic() - self._sighted_at >= self._settle_s

    @property
    def grace(self) -> timedelta:
        """For how much longer a Target counts that was only seen: as long as nobody could have seen it."""
        if self.settled:
            return timedelta(0)
        if self._blind_from is None:
            return SIGHT
        return timedelta(seconds=self._clock.monotonic() - self._blind_from)

    def _blind(self) -> None:
        if self._blind_from is None or self.settled:
            self._blind_from = self._well_at
        self._sighted_at = self._clock.monotonic()

    def _sees(self) -> None:
        self._well_at = self._clock.monotonic()

    # The looks

    async def _look(self, roll_out: RollOut, item: Live, *, soon: bool) -> Look:
        """Look at one Target until it is proved, or it is not worth another look now."""
        target = item.target
        blind = target.probe is None and target.admin is None
        pauses_s = SOON_S if soon and not blind else ()
        for pause_s in (*pauses_s, None):
            async with self._hearing if soon else self._polling:
                began = self._clock.monotonic()
                look = await looks.look(target, roll_out.wanted, told=self.on_look)
            # Who does not answer is not switching: the poll looks again.
            if look.by is not None or pause_s is None or self._clock.monotonic() - began > ANSWERS_S:
                break
            await self._clock.sleep(pause_s)
        return look

    # Around

    def _tell(self, roll_out: RollOut, decision: Decision) -> None:
        told = {
            "secret": roll_out.secret,
            "rotation": roll_out.rotation,
            "generation": roll_out.generation,
            "reason": decision.reason,
        }
        if (outcome := ENDED.get(decision.action)) is not None:
            crashpoint("rotation.ended")
            self.on_end(outcome)
            _log.info("rotation.ended", outcome=outcome, **told)
        elif decision.action is Action.ROLL_BACK:
            crashpoint("rotation.rolled_back")
            self.on_roll_back(decision.reason)
            _log.error("rotation.rolled_back", targets=decision.targets, **told)
        elif decision.action is Action.ASK_OPERATOR:
            _log.error("rotation.frozen", targets=decision.targets, **told)
        elif decision.action is Action.FAN_OUT:
            _log.info("rotation.fanned_out", **told)
        elif decision.action is Action.ASK_MORE:
            _log.warning("rotation.canaries_asked", targets=decision.targets, **told)
