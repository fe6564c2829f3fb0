"""Names on demand: what a first handshake asks for becomes a Secret, if rule, grant and limits allow it.

The streams are answered from memory (`on_demand.names`); here it is found out, beside them, what memory
cannot know: what the operator's URL says, and whether there is room. Limits are counted in the database, for
all replicas together. While that is away nobody waits: what is not known is told to be absent.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sds_server.clock import Clock
from sds_server.errors import CertvoyError, Unavailable
from sds_server.inventory import on_demand
from sds_server.inventory.database import Database
from sds_server.log import get
from sds_server.model import Identity
from sds_server.on_demand.ask import Asker
from sds_server.on_demand.names import Names, Wish
from sds_server.on_demand.rules import Result, Rule, Verdict, refused

HOLD_FOR: Final = timedelta(hours=1)
"""A rule that no replica has said to have for so long is gone: a configuration is rolled out in less."""

HOLD_EVERY: Final = timedelta(minutes=1)
STEADY: Final = timedelta(minutes=5)
"""For so long the database must have answered before a rule counts as gone: all others had time to speak."""

READ_EVERY: Final = timedelta(minutes=5)
"""How often all names are read, although each change is told of."""

BATCH: Final = 100
MAX_DENIALS: Final = 1_000
"""Kinds of denials that are told once within `TOLD_FOR`: an identity, a rule and a reason each."""

TOLD_FOR: Final = timedelta(hours=1)

Told = Callable[[Result], None]

_log = get("on_demand")


class OnDemand:
    """Finds out what becomes of wishes, knows which names there are, and removes those that nobody wants."""

    def __init__(self, *, database: Database, names: Names, asker: Asker, clock: Clock, actor: str) -> None:
        self._database = database
        self.names = names
        self.asker = asker
        self._clock = clock
        self._actor = actor
        self._told: set[str] = set()
        self._read_at: float | None = None
        self._held_at: float | None = None
        self._steady_since: float | None = None
        self._denied: dict[tuple[Identity, str, Result], float] = {}
        self._unwritten: list[tuple[Identity, str, str, Result]] = []
        self.on_result: Told = lambda _result: None
        names.on_denied = self._deny

    # What changes

    def told(self, name: str) -> None:
        """There may be a Secret of that name now, or none any more."""
        if self.names.rules:
            self._told.add(name)

    def missed(self) -> None:
        """Something may have changed that nobody told of: read all next."""
        self._read_at = None

    async def step(self) -> None:
        """Read what has changed, hold the rules, remove what nobody wants, write what was denied.

        Raises:
            Unavailable: the database does not answer; what is known stays.
        """
        try:
            await self._step()
        except CertvoyError:
            self._steady_since = None
            raise

    async def _step(self) -> None:
        now = self._clock.monotonic()
        await self._hold(now)
        await self._read(now)
        if self._unwritten:
            denials = self._unwritten[:BATCH]
            await on_demand.deny(self._database, denials, actor=self._actor)
            del self._unwritten[: len(denials)]
        if self._steady_since is None:
            self._steady_since = now
        steady = now - self._steady_since >= STEADY.total_seconds()
        while True:
            looked_at, removed = await on_demand.sweep(
                self._database, limit=BATCH, orphans=steady, actor=self._actor
            )
            for name, reason in removed:
                _log.info("name.removed", secret=name, reason=reason)
            if looked_at < BATCH:
                return

    async def _hold(self, now: float) -> None:
        if self._held_at is not None and now - self._held_at < HOLD_EVERY.total_seconds():
            return
        rules = [rule.name for rule in self.names.rules]
        if rules:
            await on_demand.hold(self._database, rules, lasts=HOLD_FOR)
        self._held_at = now

    async def _read(self, now: float) -> None:
        if not self.names.rules:
            return
        told, self._told = self._told, set()
        self.names.reading()
        if self._read_at is None or now - self._read_at >= READ_EVERY.total_seconds():
            self.names.learn(await on_demand.secrets(self._database, self.names.rules))
            self._read_at = now
        elif told:
            try:
                found = await on_demand.named(self._database, sorted(told))
            except CertvoyError:
                self._told |= told
                raise
            self.names.learn(found, among=told)

    # What is wished

    async def decide(self) -> None:
        """Find out what becomes of each wish, until there is none. Any number may be under way."""
        while (wish := self.names.next_wish()) is not None:
            verdict = refused(Result.UNAVAILABLE, self._clock.now())
            try:
                verdict = await self._decide(wish)
            except Unavailable as e:
                _log.warning("name.undecided", secret=wish.name, identity=wish.identity, error=e.message)
            finally:
                self.names.settle(wish, verdict)
            self._tell(wish, verdict)

    async def _decide(self, wish: Wish) -> Verdict:
        rule = wish.rule
        if rule.ask is not None:
            no = await self.asker.ask(rule.ask, wish.name)
            if no is not None:
                return refused(no, self._clock.now())
        if not self.names.still_may(wish):  # it has waited, and grants change
            return Verdict(Result.NO_GRANT)
        return await on_demand.create(
            self._database,
            wish.name,
            rule,
            identity=wish.identity,
            node_id=wish.node_id,
            actor=self._actor,
        )

    def _tell(self, wish: Wish, verdict: Verdict) -> None:
        if verdict.result is Result.CREATED:
            _log.info("name.created", secret=wish.name, rule=wish.rule.name, identity=wish.identity)
        if verdict.granted:
            self.on_result(verdict.result)
        else:
            self._deny(wish.identity, wish.name, wish.rule, verdict.result)

    def _deny(self, identity: Identity, name: str, rule: Rule, result: Result) -> None:
        """Count it, and tell of the first of its kind: a flood must not become one of the audit."""
        self.on_result(result)
        now = self._clock.monotonic()
        kind = (identity, rule.name, result)
        told_at = self._denied.get(kind)
        if told_at is not None and now - told_at < TOLD_FOR.total_seconds():
            return
        if told_at is None and len(self._denied) >= MAX_DENIALS:
            self._denied = {
                one: at for one, at in self._denied.items() if now - at < TOLD_FOR.total_seconds()
            }
            if len(self._denied) >= MAX_DENIALS:
                return
        self._denied[kind] = now
        self._unwritten.append((identity, rule.name, name, result))
        _log.warning("name.denied", secret=name, rule=rule.name, identity=identity, reason=result)
