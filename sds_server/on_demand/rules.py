"""Rules of names on demand: which names may become Secrets by being asked for, and within which limits. Pure.

The name is what a client wrote into its handshake (SNI), which anybody can: so a rule says which names, a
grant with ``issue`` for whom, and limits how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

from acme_engine.errors import BadIdentifier
from acme_engine.names import normalise
from acme_engine.registered import registered_domain
from sds_server.model import KeyType, Proof

LIMIT_HOUR: Final = timedelta(hours=1)
"""The time in which the new names of one identity are counted."""


class Result(StrEnum):
    """What became of the wish for a name that was no Secret; the first two have one now."""

    CREATED = "created"
    EXISTS = "exists"
    NO_GRANT = "no_grant"
    TOO_DEEP = "too_deep"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    IDENTITY_LIMIT = "identity_limit"
    DOMAIN_LIMIT = "domain_limit"
    FULL = "full"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"


FORGET: Final = {
    Result.REFUSED: timedelta(seconds=60),
    Result.UNANSWERED: timedelta(seconds=10),
    Result.FULL: timedelta(seconds=60),
    Result.UNAVAILABLE: timedelta(seconds=5),
}
"""For how long a no is remembered that has no end of its own; a no that is not here costs nothing to find."""

LIMITS: Final = frozenset({Result.IDENTITY_LIMIT, Result.DOMAIN_LIMIT, Result.FULL})
"""A no that is about more than the one name."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Names that may be asked for, the Secret that each becomes, and the limits.

    Exactly one of ``names``, ``suffix`` (``.shops.example.com``) and ``ask`` alone says which names these
    are; with ``suffix``, ``ask`` is asked besides. ``depth``: so many labels may stand before the suffix.
    ``per_identity``: new names an hour of one identity; ``per_domain``: new names within ``window`` of the
    suffix or, without one, of one registered domain. ``keep``: a name that nobody has subscribed to for so
    long is removed.
    """

    name: str
    issuer: str
    names: frozenset[str] = frozenset()
    suffix: str | None = None
    depth: int = 1
    ask: str | None = None
    key_type: KeyType = KeyType.ECDSA_P256
    proof: Proof = field(default_factory=Proof)
    per_identity: int = 20
    per_domain: int = 50
    window: timedelta = timedelta(days=7)
    max_names: int = 10_000
    keep: timedelta = timedelta(days=30)

    def governs(self, name: str) -> bool:
        """Whether what is asked for under the name is this rule's to say, be it yes or no."""
        if self.suffix is not None:
            return name.endswith(self.suffix)
        return name in self.names if self.names else "." in name

    def too_deep(self, name: str) -> bool:
        """Whether more labels stand before the suffix than may."""
        return self.suffix is not None and name.removesuffix(self.suffix).count(".") >= self.depth

    def domain(self, name: str) -> str:
        """Return the domain by which new names are counted together."""
        return self.suffix[1:] if self.suffix else registered_domain(name)


@dataclass(frozen=True, slots=True)
class Budget:
    """What is spent of a rule's limits, and when there is room again; None: nothing is spent."""

    names: int = 0
    of_identity: int = 0
    of_domain: int = 0
    identity_again: datetime | None = None
    domain_again: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a wish, and why. ``again``: not before this moment is it worth another look."""

    result: Result
    again: datetime | None = None

    @property
    def granted(self) -> bool:
        """Whether there is a Secret of that name now."""
        return self.result in {Result.CREATED, Result.EXISTS}


def may_wish(rule: Rule, name: str, *, may_issue: bool) -> Result | None:
    """Return why the wish is not even asked about; None: it is. ``may_issue``: the identity's grant."""
    if rule.too_deep(name):
        return Result.TOO_DEEP
    return None if may_issue else Result.NO_GRANT


def decide(rule: Rule, budget: Budget, *, now: datetime) -> Verdict:
    """Say whether one more name may become a Secret by this rule."""
    if budget.names >= rule.max_names:
        return refused(Result.FULL, now)
    if budget.of_identity >= rule.per_identity:
        return Verdict(Result.IDENTITY_LIMIT, budget.identity_again or now + LIMIT_HOUR)
    if budget.of_domain >= rule.per_domain:
        return Verdict(Result.DOMAIN_LIMIT, budget.domain_again or now + rule.window)
    return Verdict(Result.CREATED)


def refused(result: Result, now: datetime) -> Verdict:
    """Return a no with the time for which it is remembered."""
    return Verdict(result, now + FORGET[result] if result in FORGET else None)


@lru_cache(maxsize=1024)
def dns_name(asked: str) -> str | None:
    """Return the DNS name that an SNI is, lower case and in A-labels; None: it is none, or a wildcard.

    Remembered, as each handshake has it asked for ten times in a row, and IDNA takes up to 0.5 ms.
    """
    try:
        name = normalise(asked)
    except BadIdentifier:
        return None
    return None if name.startswith("*") else name


def rule_of(rules: Sequence[Rule], name: str) -> Rule | None:
    """Return the rule that governs a name: the first that does."""
    return next((rule for rule in rules if rule.governs(name)), None)
