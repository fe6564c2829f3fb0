"""What this replica knows of the names that rules govern: all in memory, so that a miss costs nothing.

Anybody can ask for any name. A name that is no Secret is answered from here, without the database, and what
is remembered of it is bounded: a flood of made-up names changes neither how fast others are answered nor how
much is held.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sds_server.clock import Clock
from sds_server.model import Identity
from sds_server.on_demand.rules import LIMITS, Result, Rule, Verdict, dns_name, may_wish, rule_of

MAX_REMEMBERED: Final = 10_000
"""A no each; the oldest is forgotten first, and found anew if it is asked for again."""

MAX_WISHES: Final = 1_000
"""Names of which it is being found out; what comes beyond is told no, and may ask again."""

MAX_WISHES_OF_ONE: Final = 100
"""Of one identity, so that it keeps no other waiting."""

Wake = Callable[[str], None]
"""Told the name as it was asked for; quick, and never raises."""

MaySee = Callable[[str], bool]
"""Whether whoever asks may see the Secret."""

Scope = tuple[str, str, str]
Denial = tuple[Result, datetime]
"""Why not, and until when that is remembered."""


class Standing(StrEnum):
    """What there is under a name that a rule governs."""

    SECRET = "secret"  # noqa: S105 - a Secret, which the Catalog knows
    WISHED = "wished"  # it is being found out
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody asks for a name that may become a Secret."""

    name: str
    rule: Rule
    identity: Identity
    node_id: str


class Names:
    """Which Secret answers for a name as asked, and whether there is one.

    All methods are quick and belong to one event loop. ``on_wish`` is called when there is a new wish;
    whoever hears it takes `next_wish` and answers with `settle`.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        clock: Clock,
        may_issue: Callable[[Identity, str], bool] = lambda _identity, _name: False,
    ) -> None:
        """``may_issue``: whether the identity's wish for the name may have a certificate ordered."""
        self.rules = tuple(rules)
        self._clock = clock
        self._may_issue = may_issue
        self._known: set[str] = set()
        self._granted: set[str] = set()  # since somebody began to read what there is
        self._covering: set[tuple[str, str]] = set()  # a wildcard, and a Secret that is for it
        self._wildcards: dict[str, list[str]] = {}
        self._watchers: dict[str, set[tuple[Wake, str]]] = {}
        self._wishes: dict[Identity, dict[str, Wish]] = {}  # in order; whose turn it is, first
        self._open: dict[str, Wish] = {}  # taken or not
        self._open_of: Counter[Identity] = Counter()
        self._denied: dict[Scope, Denial] = {}
        self.on_wish: Callable[[], None] = lambda: None
        self.on_denied: Callable[[Identity, str, Rule, Result], None] = lambda *_about: None

    # What the streams ask

    def governs(self, asked: str) -> bool:
        """Whether a rule has the say about the name."""
        return self._governed(asked) is not None

    def answers(self, asked: str, may_see: MaySee = lambda _secret: True) -> str:
        """Return the name of the Secret that answers for a name as asked: itself where no rule governs it.

        Else the Secret of that name, as it is spelt or in lower case, or one for the wildcard that covers it
        (RFC 6125 section 6.4.3: of the left-most label alone): the first that whoever asks may see. What
        somebody else has made of the name takes nothing from who has the wildcard.
        """
        governed = self._governed(asked)
        if governed is None:
            return asked
        name, _ = governed
        own = asked if asked in self._known else name
        if own in self._known and may_see(own):
            return own
        return next((wild for wild in self._wildcards.get(_wildcard(name), ()) if may_see(wild)), own)

    def look(
        self,
        identity: Identity,
        node_id: str,
        asked: str,
        *,
        fresh: bool = True,
        may_see: MaySee = lambda _secret: True,
    ) -> Standing:
        """Say what there is under the name, and take the wish for one that may become a Secret.

        ``fresh``: it is asked for now; else nothing is wished.
        """
        governed = self._governed(asked)
        if governed is None:
            return Standing.SECRET
        name, rule = governed
        if name in self._known or self.answers(asked, may_see) != name:
            return Standing.SECRET
        if not fresh:
            return Standing.NOTHING
        if name in self._open and self._may_issue(identity, name):
            return Standing.WISHED
        result = may_wish(rule, name, may_issue=self._may_issue(identity, name)) or self._said_no(
            rule, name, identity
        )
        if result is None and not self._has_room(identity):
            result = Result.BUSY
        if result is not None:
            self.on_denied(identity, name, rule, result)
            return Standing.NOTHING
        self._open[name] = wish = Wish(name, rule, identity, node_id)
        self._wishes.setdefault(identity, {})[name] = wish
        self._open_of[identity] += 1
        self.on_wish()
        return Standing.WISHED

    def watch(self, asked: str, wake: Wake) -> None:
        """Call ``wake`` whenever what there is under the name changes, until `unwatch`."""
        if (governed := self._governed(asked)) is not None:
            self._watchers.setdefault(governed[0], set()).add((wake, asked))

    def unwatch(self, asked: str, wake: Wake) -> None:
        """Stop."""
        name = dns_name(asked)
        watchers = self._watchers.get(name or "")
        if name is not None and watchers is not None:
            watchers.discard((wake, asked))
            if not watchers:
                del self._watchers[name]

    # What is found out

    def next_wish(self) -> Wish | None:
        """Take a wish; None: there is none.

        Each identity has its turn: one with many keeps no other waiting for more than one of them.
        """
        identity = next(iter(self._wishes), None)
        if identity is None:
            return None
        wishes = self._wishes.pop(identity)
        wish = wishes.pop(next(iter(wishes)))
        if wishes:
            self._wishes[identity] = wishes  # behind all others
        return wish

    def still_may(self, wish: Wish) -> bool:
        """Whether the wish may have a certificate ordered now, as it might when it was made."""
        return self._may_issue(wish.identity, wish.name)

    def settle(self, wish: Wish, verdict: Verdict) -> None:
        """Remember what became of a wish that was taken, and let those know who wait for it."""
        if self._open.pop(wish.name, None) is not None:
            self._open_of[wish.identity] -= 1
            self._open_of += Counter()  # drops who has none
        if verdict.granted:
            self._known.add(wish.name)
            self._granted.add(wish.name)
        elif verdict.again is not None:
            self._remember(_scope(wish, verdict.result), verdict)
        self._wake(wish.name)

    def reading(self) -> None:
        """Note that somebody begins to read what there is, and may not see what is granted from now on."""
        self._granted.clear()

    def learn(self, found: Mapping[str, Sequence[str]], *, among: Iterable[str] | None = None) -> None:
        """Take in Secrets with their DNS names. ``among``: the names that were looked for; None: all."""
        governed = {name for name in found if rule_of(self.rules, _plain(name)) is not None}
        covering = {(one, name) for name, domains in found.items() for one in domains if one.startswith("*.")}
        if among is None:
            gone = self._known - governed
        else:
            asked = set(among)
            gone = (self._known & asked) - governed
            covering |= {(one, name) for one, name in self._covering if name not in asked}
        gone -= self._granted
        new = governed - self._known
        changed = {one for one, _ in covering ^ self._covering}
        self._known = (self._known - gone) | new
        if changed:
            self._covering, self._wildcards = covering, {}
            for one, name in sorted(covering):
                self._wildcards.setdefault(one, []).append(name)
        for name in gone | new:
            self._wake(dns_name(name) or name)
        if changed:
            for name in [one for one in self._watchers if _wildcard(one) in changed]:
                self._wake(name)

    @property
    def known(self) -> int:
        """How many Secrets there are under names that rules govern."""
        return len(self._known)

    @property
    def remembered(self) -> int:
        """How many refusals are remembered."""
        return len(self._denied)

    @property
    def wishes(self) -> int:
        """Of how many names it is being found out."""
        return len(self._open)

    # Around

    def _governed(self, asked: str) -> tuple[str, Rule] | None:
        if not self.rules or (name := dns_name(asked)) is None:
            return None
        rule = rule_of(self.rules, name)
        return None if rule is None else (name, rule)

    def _has_room(self, identity: Identity) -> bool:
        return len(self._open) < MAX_WISHES and self._open_of[identity] < MAX_WISHES_OF_ONE

    def _said_no(self, rule: Rule, name: str, identity: Identity) -> Result | None:
        now = self._clock.now()
        for scope in (
            ("name", rule.name, name),
            ("identity", rule.name, identity),
            ("domain", rule.name, rule.domain(name)),
            ("rule", rule.name, ""),
        ):
            remembered = self._denied.get(scope)
            if remembered is not None:
                result, until = remembered
                if now < until:
                    return result
                del self._denied[scope]
        return None

    def _remember(self, scope: Scope, verdict: Verdict) -> None:
        assert verdict.again is not None  # noqa: S101 - the caller's condition
        self._denied.pop(scope, None)
        self._denied[scope] = (verdict.result, verdict.again)
        while len(self._denied) > MAX_REMEMBERED:
            # Those of limits are few and worth more: each spares the database a flood.
            oldest = next((one for one, (no, _) in self._denied.items() if no not in LIMITS), None)
            del self._denied[oldest or next(iter(self._denied))]

    def _wake(self, name: str) -> None:
        for wake, asked in tuple(self._watchers.get(name, ())):
            wake(asked)


def _scope(wish: Wish, result: Result) -> Scope:
    rule = wish.rule
    match result:
        case Result.IDENTITY_LIMIT:
            return ("identity", rule.name, wish.identity)
        case Result.DOMAIN_LIMIT:
            return ("domain", rule.name, rule.domain(wish.name))
        case Result.FULL:
            return ("rule", rule.name, "")
        case _:
            return ("name", rule.name, wish.name)


def _wildcard(name: str) -> str:
    return "*." + name.partition(".")[2]


def _plain(name: str) -> str:
    """Return a Secret's name as rules spell names. Cheaper than `dns_name`, as there may be a million."""
    return name.lower().removesuffix(".")
