"""Which of a Secret's issuers is asked: the first, and when another instead. Pure.

| the issuer before                                        | what is done                               |
|----------------------------------------------------------|--------------------------------------------|
| answers                                                  | it is asked                                |
| is left alone for a moment                               | it is waited for                           |
| is left alone for over `LONG`, or until a person acts    | the next is asked                          |
| failed `TRIPS` times in a row, by a fault of its own     | the next, until it answers, or `RECOVERS`  |
| has a limit that is spent for more than `LONG`           | the next is asked                          |
| any of these, and little time is left                    | the next, by turns                         |

What failed by a fault of ours (its name does not resolve, cannot be reached, shows something else) fails at
every CA: another is asked only when there is little time left, by turns. An order under way is finished where
it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acme_engine import renewal
from acme_engine.errors import Actor, BadReply, Refused, Unfinished, Unreachable, Untrusted

TRIPS: Final = 3

LONG: Final = timedelta(minutes=10)
"""A pause that is worth another CA's certificate: a shorter one is over before anybody notices."""

RECOVERS: Final = timedelta(minutes=30)
"""After that one order tries a CA again that fails while its directory answers."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a CA stands: left alone, for ``paused_for`` (None: until a person acts); ``failures`` in a row.

    ``spent_for``: for so long a limit keeps this Secret's next order from it.
    """

    paused: bool = False
    paused_for: timedelta | None = None
    failures: int = 0
    failed_ago: timedelta | None = None
    error: str | None = None
    spent_for: timedelta | None = None

    @property
    def trouble(self) -> str | None:
        """Why it is passed over; None: it is asked, or waited for."""
        if self.paused and (self.paused_for is None or self.paused_for > LONG):
            return "it is left alone for longer"
        recent = self.failed_ago is not None and self.failed_ago < RECOVERS
        if self.failures >= TRIPS and (self.paused or recent):
            return f"it failed {self.failures} times in a row"
        if self.spent_for is not None and self.spent_for > LONG:
            return "a limit of it is spent"
        return None


@dataclass(frozen=True, slots=True)
class Choice:
    """The issuer that is asked; ``why``: it is not the first."""

    issuer: str
    why: str | None = None


def choose(
    issuers: Sequence[str],
    standings: Mapping[str, Standing],
    *,
    urgent: bool,
    attempts: int,
    under_way: str | None = None,
) -> Choice | None:
    """Return which issuer is asked; None: the first is waited for.

    ``urgent``: little time is left. ``attempts``: this one is the so manieth. ``under_way``: where the
    Rotation's order is.
    """
    usable = [name for name in issuers if not standings[name].paused and standings[name].trouble is None]
    if under_way in usable:
        return Choice(under_way, None if under_way == issuers[0] else "its order is under way there")
    if urgent and usable:
        # A failure of any kind: the time is too short to find out whose it was.
        chosen = usable[(attempts - 1) % len(usable)]
        return Choice(
            chosen, None if chosen == issuers[0] else "little time is left, and not all have been asked"
        )
    for name in issuers:
        if name in usable:
            return Choice(name, _why(issuers, standings, name))
        if standings[name].trouble is None:
            return None
    left = [name for name in issuers if not standings[name].paused]
    return Choice(left[0], _why(issuers, standings, left[0])) if left else None


def by_the_ca(error: Exception) -> bool:
    """Whether a failure is the CA's own, or the way's to it: another CA may do better."""
    if isinstance(error, Unreachable | Untrusted | BadReply | Unfinished):
        return True
    return isinstance(error, Refused) and error.actor is Actor.CA


def is_urgent(not_before: datetime | None, not_after: datetime | None, *, now: datetime) -> bool:
    """Whether what is served ends so soon that no CA is waited for."""
    if not_before is None or not_after is None:
        return False
    return now > renewal.floor(not_before=not_before, not_after=not_after)


def _why(issuers: Sequence[str], standings: Mapping[str, Standing], chosen: str) -> str | None:
    passed = issuers[: issuers.index(chosen)]
    said = [f"{name}: {standings[name].trouble or 'it is left alone'}" for name in passed]
    return "; ".join(said) or None
