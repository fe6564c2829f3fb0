"""The pusher: brings to agents what they are offered, where an operator has named their address.

It sends what a fetch would get, and writes what the agent answers as the report that it is. Most agents
fetch, and need none of this.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Final
from urllib.parse import quote

from acme_engine import chain as chains
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import CallerError, CertvoyError
from sds_server.inventory import pushes, reports
from sds_server.inventory.database import Database
from sds_server.inventory.pushes import Claim
from sds_server.inventory.reports import Report, Said
from sds_server.lifecycle import answer as answers
from sds_server.lifecycle.answer import Answer, Unreadable
from sds_server.log import get
from sds_server.model import Identity, Peer
from sds_server.targets.calls import TOTAL_S, Agents, CallFailed, Impostor
from sds_server.xds import codec
from sds_server.xds.catalog import Catalog, Resource

AT_ONCE: Final = 8
"""Pushes of one replica under way: each agent reloads a program, and a dead one costs its deadline."""

LEASE: Final = timedelta(seconds=TOTAL_S + 30)
"""How long a push keeps others from the same Delivery: longer than it can take."""

LOAD_S: Final = 5.0
LOOK_AGAIN_S: Final = 0.5
"""How long one that is over waits at most until another is taken up beside those that take long."""

ASK_AGAIN_S: Final = 15.0
"""How soon an agent that has a pair and has not seen it served is asked again: its program may start now."""

REFUSED_AGAIN: Final = timedelta(hours=1)
"""How soon one that refused it is asked again: its program may be mended by then."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
OK: Final = 200

_log = get("pusher")


class Failed(Exception):
    """A push came to nothing; the message says why."""

    def __init__(
        self, why: str, *, after_s: float | None = None, sent: bool = False, impostor: bool = False
    ) -> None:
        super().__init__(why)
        self.after_s = after_s
        self.sent = sent
        self.impostor = impostor


def pause_s(attempt: int, *, after_s: float | None, rng: Random) -> float:
    """Return how long to wait after so many tries in a row: 1 s, doubled each time up to 5 min, with jitter.

    ``after_s`` is the least that the agent asked for.
    """
    grown: float = min(FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 10), LONGEST_PAUSE_S)
    return max(grown * rng.uniform(0.5, 1.0), after_s or 0.0)


class Pusher:
    """Any number of replicas may run one. `step` pushes all that is due, and some at once."""

    def __init__(
        self,
        *,
        database: Database,
        catalog: Catalog,
        agents: Agents,
        authorize: Callable[[Identity, str], bool],
        seen_for: timedelta,
        clock: Clock,
        rng: Random,
        actor: str,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._agents = agents
        self._authorize = authorize
        self._seen_for = seen_for
        self._clock = clock
        self._rng = rng
        self._actor = actor
        self.on_said: Callable[[str], None] = lambda _secret: None
        """Told of a Secret of which an agent has said something."""
        self.on_pushed: Callable[[str], None] = lambda _result: None

    async def step(self) -> None:
        """Push all that is due; one that takes long keeps no other waiting, while there are few of them.

        Raises:
            Unavailable: the database does not answer; what was claimed is taken up again later.
        """
        try:
            async with asyncio.TaskGroup() as group:
                await self._all(group)
        except ExceptionGroup as e:
            raise e.exceptions[0] from None  # the database is away for all of them

    async def _all(self, group: asyncio.TaskGroup) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            free = AT_ONCE - len(running)
            claims = await pushes.claim(self._database, lease_for=LEASE, limit=free) if free else ()
            if claims:
                crashpoint("push.claimed")
            running |= {group.create_task(self._push(claim)) for claim in claims}
            if not running:
                return
            _, running = await asyncio.wait(
                running, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED
            )

    async def _push(self, claim: Claim) -> None:
        log = _log.bind(secret=claim.secret, target=claim.target.name, generation=claim.generation)
        began = self._clock.monotonic()
        try:
            answer = await self._bring(claim)
            await self._report(claim, answer)
        except Failed as e:
            pause = pause_s(claim.attempt, after_s=e.after_s, rng=self._rng)
            await pushes.failed(
                self._database,
                claim,
                error=f"push: {e}",
                pause=timedelta(seconds=pause),
                sent=e.sent,
                impostor=e.impostor,
                actor=self._actor,
            )
            self.on_pushed("impostor" if e.impostor else "failed")
            if e.impostor:
                log.error("push.impostor", attempt=claim.attempt, error=str(e))  # noqa: TRY400 - no bug
            else:
                log.warning("push.failed", attempt=claim.attempt, error=str(e), pause_s=round(pause, 1))
            return
        self.on_pushed(answer.said)
        self.on_said(claim.secret)
        log.info("push.answered", answer=answer.said, seconds=round(self._clock.monotonic() - began, 3))

    async def _bring(self, claim: Claim) -> Answer:
        """Send the bundle, and return the agent's answer."""
        target, secret = claim.target, claim.secret
        if target.identity is None or target.push is None:
            raise Failed("it has no identity or no address any more")
        if not self._authorize(target.identity, secret):
            raise Failed(f"no grant lets {target.identity} see {secret}: grant it, as for a fetch")
        resource = await self._offered(claim, Peer(target.identity, target.node_id or ""))
        crashpoint("push.sending")
        try:
            reply = await self._agents.call(
                target.push,
                target.identity,
                "POST",
                f"/v1/bundles/{quote(secret, safe='')}",
                body=_bundle(resource, target.name),
            )
        except CallFailed as e:
            raise Failed(str(e), sent=e.sent, impostor=isinstance(e, Impostor)) from None
        except CertvoyError as e:  # our own certificate: the KMS or the database is away
            raise Failed(f"we have no certificate to call with: {e}") from None
        crashpoint("push.answering")
        if reply.status != OK:
            said = answers.words(reply.body)
            raise Failed(
                f"{target.push} answered with HTTP {reply.status}{': ' if said else ''}{said}",
                after_s=reply.retry_after_s,
                sent=True,
            )
        try:
            answer = answers.read(reply.body)
        except Unreadable as e:
            raise Failed(
                f"{target.push} answered with something else than a report: {e}", sent=True
            ) from None
        if answer.generation != resource.generation:
            raise Failed(f"{target.push} speaks of generation {answer.generation}", sent=True)
        return answer

    async def _report(self, claim: Claim, answer: Answer) -> None:
        """Write the agent's word: into the Delivery as any report, then that these bytes are answered."""
        report = Report(
            secret=claim.secret,
            target=claim.target.name,
            identity=None,  # it has shown who it is, and the Target is there
            kind=answer.kind or claim.target.kind,
            said=answer.said,
            generation=answer.generation,
            fingerprints=answer.fingerprints,
            refusal=answer.refusal,
            address=answer.address,
            asked=claim.target,
        )
        try:
            await reports.write(self._database, report, seen_for=self._seen_for, actor=self._actor)
        except CallerError as e:  # something else is offered meanwhile, or the Target is gone, or elsewhere
            raise Failed(str(e), sent=True) from None
        await pushes.answered(self._database, claim, kind=answer.kind, again=self._again(claim, answer))

    def _again(self, claim: Claim, answer: Answer) -> timedelta | None:
        """Return when to ask again: where nobody but the agent can look, and it does not see the leaf."""
        target = claim.target
        if answer.said is Said.PROVED or target.probe is not None or target.admin is not None:
            return None
        if answer.said is Said.REFUSED:
            return REFUSED_AGAIN
        return timedelta(seconds=pause_s(claim.attempt, after_s=ASK_AGAIN_S, rng=self._rng))

    async def _offered(self, claim: Claim, peer: Peer) -> Resource:
        """Return what the Catalog has for the Target: opened, and judged by the content gate."""
        changed = asyncio.Event()

        def wake(_name: str) -> None:
            changed.set()

        self._catalog.watch([claim.secret], wake)
        try:
            async with asyncio.timeout(LOAD_S):
                while True:
                    changed.clear()
                    entry = self._catalog.look(claim.secret, peer)
                    if isinstance(entry, Resource) and entry.generation == claim.generation:
                        return entry
                    await changed.wait()
        except TimeoutError:
            raise Failed(
                f"this replica does not offer generation {claim.generation} yet: see /readyz and its log"
            ) from None
        finally:
            self._catalog.unwatch([claim.secret], wake, now=self._clock.monotonic())


def _bundle(resource: Resource, target: str) -> bytes:
    """Encode what a fetch of the bundle gets, with the name of the target that it is for."""
    resource = resource.unstapled
    chain, key = codec.chain_and_key(resource.body)
    leaf = chains.parse(chain)
    return json.dumps(
        {
            "name": resource.name,
            "target": target,
            "generation": resource.generation,
            "version": resource.version,
            "fingerprint_sha256": leaf.fingerprint,
            "not_after": leaf.not_after.isoformat(),
            "chain": chain.decode(),
            "private_key": None if resource.keyless else key.decode(),
        }
    ).encode()
