"""What follows a failed attempt: when the next one is, and whether with a new order. Pure.

| the failure                            | the next attempt                                                  |
|----------------------------------------|-------------------------------------------------------------------|
| the CA is away                         | when it is back; not counted                                      |
| a limit of its names, or of the account | when the CA wants; not counted                                   |
| a limit, the first time                | with all others, when the CA wants                                |
| a limit, again                         | as that, and the back-off on top                                  |
| the account is unknown, the first time | at once, registered anew                                          |
| badCSR or badPublicKey, the first time | by the back-off, with a new key                                   |
| one of rule HOLD (`errors.RULES`)      | never by itself                                                   |
| CAA                                    | by the back-off, an hour at least: what may be issued is cached   |
| a type that nobody knows, with 4xx     | by the back-off's last interval: the same will not be liked soon  |
| its order is under way still           | by the back-off, or when the CA says, within an hour at most      |
| the certificate ended 30 days ago      | never by itself                                                   |
| anything else                          | by the back-off                                                   |
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acme_engine import backoff
from acme_engine.errors import (
    RULES,
    AcmeError,
    Action,
    BadIdentifier,
    OrderFailed,
    Problem,
    Refused,
    Unfinished,
)
from acme_engine.errors import ChainError as BadChain
from sds_server.errors import GateRefused, KeyAwaited, OrderedTooOften
from sds_server.lifecycle.patience import Verdict

KEY_AWAITED: Final = timedelta(minutes=1)
"""How often it is looked whether a Target has brought its request, should nobody have been told."""

CAA_LEAST: Final = timedelta(hours=1)

UNDER_WAY_MOST: Final = timedelta(hours=1)
"""How long an order that is under way is not looked at, whatever its CA says. ZeroSSL says a day of one that
is done in minutes, and a hostile CA a year; to look costs one request."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The next attempt: after ``pause``; None: a person must act first.

    ``abandon_order``: it begins with a new order and a new key. ``counted``: the pauses after the next
    failures are longer; not where nothing could have succeeded.
    """

    pause: timedelta | None
    abandon_order: bool
    counted: bool


def after(
    error: Exception,
    *,
    attempts: int,
    verdict: Verdict,
    not_after: datetime | None,
    now: datetime,
    rng: backoff.Rng,
    spent: timedelta | None = None,
) -> Retry:
    """Return what follows, ``attempts`` attempts having failed in a row.

    ``not_after``: the end of what is served, if anything is. ``spent``: for so long a limit is.
    """
    if verdict is Verdict.SPENT:
        return Retry(pause=spent, abandon_order=False, counted=False)
    away = verdict is Verdict.AWAY
    return Retry(
        pause=timedelta(0)
        if away
        else error.wait
        if isinstance(error, OrderedTooOften)
        else _pause(error, attempts, limited=verdict is Verdict.LIMIT, not_after=not_after, now=now, rng=rng),
        abandon_order=_unsignable(error)
        or (
            isinstance(error, OrderFailed | BadChain | GateRefused | BadIdentifier)
            and not isinstance(error, OrderedTooOften)
        ),
        # A request that is not brought yet is nobody's failure, nor is an order that was not made.
        counted=not away and not isinstance(error, KeyAwaited | OrderedTooOften),
    )


def _pause(
    error: Exception,
    attempts: int,
    *,
    limited: bool,
    not_after: datetime | None,
    now: datetime,
    rng: backoff.Rng,
) -> timedelta | None:
    if isinstance(error, KeyAwaited):
        return KEY_AWAITED  # it goes on at once when the request is brought
    retry_after: timedelta | None = getattr(error, "retry_after", None)
    if _forgotten(error) and attempts == 1:
        return timedelta(0)  # with the account registered anew there is nothing to wait for
    if limited and attempts == 1:
        return retry_after or timedelta(0)
    if not limited and held(error) and not (_unsignable(error) and attempts == 1):
        return None
    tried = attempts - 1 if limited else attempts
    at = backoff.next_attempt(
        attempts=max(tried, len(backoff.ATTEMPTS) + 1) if _unknown(error) else tried,
        now=now,
        not_after=not_after,
        retry_after=None if limited else retry_after,
        rng=rng,
    )
    if at is None:
        return None
    pause = at - now + (retry_after if limited and retry_after else timedelta(0))
    if _is_caa(error):
        pause = max(pause, CAA_LEAST)
    return min(pause, UNDER_WAY_MOST) if isinstance(error, Unfinished) else pause


def held(error: Exception) -> bool:
    """Whether a person must act: one name of an order that needs one holds the whole of it."""
    return any(problem.rule.action is Action.HOLD for problem in problems(error))


def problems(error: Exception) -> tuple[Problem, ...]:
    """Return the CA's words, each with its guilty name where it has one."""
    if isinstance(error, OrderFailed):
        return error.problems
    problem = error.problem if isinstance(error, AcmeError) else None
    return () if problem is None else (problem,)


def guilty(error: Exception, names: Collection[str]) -> set[tuple[str, str]]:
    """Return which of these names the CA could not validate, each with the type of its problem.

    What else the CA names is left out: it ends in a metric's label.

    An order as a whole is refused for names as well; what a CA counts are validations that failed.
    """
    if not isinstance(error, OrderFailed):
        return set()
    found = [(problem.identifier, problem.code or "unknown") for problem in error.problems]
    found += [
        (sub.identifier, sub.code or "unknown") for problem in error.problems for sub in problem.subproblems
    ]
    ours = {name.removeprefix("*.") for name in names}
    return {
        (name, code if code in RULES else "unknown")
        for name, code in found
        if name is not None and name.removeprefix("*.") in ours
    }


def _forgotten(error: Exception) -> bool:
    return isinstance(error, Refused) and error.problem.rule.action is Action.REREGISTER


def _unsignable(error: Exception) -> bool:
    """Whether the CA will not sign this request: its order lives on, and would be tried with the same."""
    return isinstance(error, Refused) and error.problem.code in {"badCSR", "badPublicKey"}


def _unknown(error: Exception) -> bool:
    return any(
        problem.code not in RULES and problem.rule.action is Action.RETRY and problem.status is not None
        for problem in problems(error)
    )


def _is_caa(error: Exception) -> bool:
    return any(
        problem.code == "caa" or any(sub.code == "caa" for sub in problem.subproblems)
        for problem in problems(error)
    )
