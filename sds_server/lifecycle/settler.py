"""The settler: has roll-outs of payloads end, by what Targets said and what their Envoys state.

Of a trust bundle Envoy's ``/certs`` shows the CAs of each TLS context: a Target whose admin interface is
known is proved by that. Of ticket keys and generic secrets nothing shows what is in use: there the Target's
word must do, and is called accepted.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import CertvoyError
from sds_server.inventory import payload_roll_outs
from sds_server.inventory.database import Database
from sds_server.inventory.payload_roll_outs import PayloadRollOut
from sds_server.inventory.targets import Live
from sds_server.lifecycle.looks import bundle
from sds_server.lifecycle.prover import ENDED, Prover
from sds_server.lifecycle.rollout import Action, Decision
from sds_server.lifecycle.together import to_their_ends
from sds_server.log import get
from sds_server.model import Kind, Outcome, TargetId
from sds_server.payloads.trust import serials_of
from sds_server.targets.verdict import Stated

AT_ONCE: Final = 32
SECRETS_A_STEP: Final = 100

SOON_S: Final = (0.005, 0.02, 0.08, 0.2)
"""After an ACK Envoy's workers take some milliseconds to switch: look again so soon."""

_log = get("settler")


class Settler:
    """Looks at payloads that are being rolled out: those of which a Target said something first."""

    def __init__(
        self,
        *,
        database: Database,
        prover: Prover,
        clock: Clock,
        actor: str,
        every: timedelta = timedelta(0),
    ) -> None:
        """``prover`` knows how far the live set may be believed; ``every``: how often all are looked at."""
        self._database = database
        self._prover = prover
        self._clock = clock
        self._actor = actor
        self._every = every
        self._looking = asyncio.Semaphore(AT_ONCE)
        self._said: set[str] = set()
        self.on_hint: Callable[[], None] = lambda: None
        self.on_end: Callable[[Kind, Outcome], None] = lambda _kind, _outcome: None
        self.on_roll_back: Callable[[str], None] = lambda _reason: None

    def said(self, secret: str) -> None:
        """Some Target has taken or refused something under the name, and it may be a payload."""
        self._said.add(secret)
        self.on_hint()

    async def step(self) -> None:
        """Look at what was told of, then at all that no replica has looked at lately.

        Raises:
            Unavailable: the database does not answer.
        """
        said, self._said = self._said, set()
        try:
            await to_their_ends(map(self.settle, sorted(said)))
        except CertvoyError:
            self._said |= said
            raise
        while found := await payload_roll_outs.claim(self._database, every=self._every, limit=SECRETS_A_STEP):
            await to_their_ends(map(self.settle, found))
            if len(found) < SECRETS_A_STEP:
                break

    async def settle(self, secret: str) -> Decision | None:
        """Look at the Targets of one Secret; None: no payload of it is being rolled out."""
        grace = self._prover.grace
        roll_out = await payload_roll_outs.get(self._database, secret, grace=grace)
        if roll_out is None:
            return None
        looks = dict(
            zip(
                [item.target.id for item in roll_out.offered],
                await asyncio.gather(*(self._look(roll_out, item) for item in roll_out.offered)),
                strict=True,
            )
        )
        decision = await payload_roll_outs.settle(
            self._database,
            secret,
            roll_out.generation,
            proved=_that(looks, Stated.LOADED),
            contradicted=dict.fromkeys(
                _that(looks, Stated.BEFORE), f"its /certs: generation {roll_out.before} is loaded still"
            ),
            looked_at=[target for target, seen in looks.items() if seen is not None],
            known=self._prover.settled,
            grace=grace,
            actor=self._actor,
        )
        self._tell(roll_out, decision)
        return decision

    async def _look(self, roll_out: PayloadRollOut, item: Live) -> Stated | None:
        """Ask an Envoy that has taken a trust bundle what it has loaded, for some moments; None: not yet."""
        address, generation = item.target.admin, roll_out.generation
        if address is None or roll_out.content is None or (item.proved or 0) >= generation:
            return Stated.NOTHING
        if (item.accepted or 0) < generation:
            return None
        if serials_of(roll_out.content) == serials_of(roll_out.before_content):
            return Stated.NOTHING
        seen: Stated | None = None
        for pause_s in (*SOON_S, None):
            async with self._looking:
                seen, _ = await bundle(address, roll_out.content, roll_out.before_content)
            # Both are there for a moment, while connections of before last.
            if seen in {None, Stated.LOADED} or pause_s is None:
                break
            await self._clock.sleep(pause_s)
        return seen or Stated.NOTHING

    def _tell(self, roll_out: PayloadRollOut, decision: Decision) -> None:
        told = {
            "secret": roll_out.secret,
            "kind": roll_out.kind,
            "generation": roll_out.generation,
            "reason": decision.reason,
        }
        if (outcome := ENDED.get(decision.action)) is not None:
            crashpoint("payload.ended")
            self.on_end(roll_out.kind, outcome)
            _log.info("payload.ended", outcome=outcome, **told)
        elif decision.action is Action.ROLL_BACK:
            crashpoint("payload.rolled_back")
            self.on_roll_back(decision.reason)
            _log.error("payload.rolled_back", targets=decision.targets, **told)
        elif decision.action is Action.FAN_OUT:
            _log.info("payload.fanned_out", **told)
        elif decision.action is Action.ASK_MORE:
            _log.warning("payload.canaries_asked", targets=decision.targets, **told)


def _that(looks: Mapping[TargetId, Stated | None], what: Stated) -> list[TargetId]:
    return [target for target, seen in looks.items() if seen is what]
