"""What an operator is told of a failure: in our words, with the next step, and whole in the CA's."""

from collections.abc import Sequence
from typing import Any

from acme_engine.errors import AcmeError, ChainError, OrderFailed, Problem
from sds_server.errors import CertvoyError, GateRefused
from sds_server.lifecycle.skew import HINT

Failure = AcmeError | CertvoyError


def told(error: Failure, *, clock: str | None = None) -> dict[str, Any]:
    """Return it as the inventory keeps it, and the API and the commands show it.

    ``clock``: how far ours is from the CA's, where that is too far. It explains dates that do not fit.
    """
    rule = {"rule": error.rule} if isinstance(error, GateRefused) else {}
    what, hint = str(error), error.hint if isinstance(error, AcmeError) else error.next_step
    if clock is not None and isinstance(error, GateRefused | ChainError) and error.rule == "dates":
        what, hint = f"{what}; this machine's clock is {clock}", HINT
    return rule | {
        "what": what,
        "hint": hint,
        "actor": error.actor if isinstance(error, AcmeError) else None,
        "problems": [_document(problem) for problem in _problems(error)],
    }


def _problems(error: Failure) -> Sequence[Problem]:
    if isinstance(error, OrderFailed):
        return error.problems
    problem = getattr(error, "problem", None)
    return [] if problem is None else [problem]


def _document(problem: Problem) -> dict[str, Any]:
    return {
        "type": problem.type,
        "title": problem.title,
        "detail": problem.detail,
        "status": problem.status,
        "identifier": problem.identifier,
        "instance": problem.instance,
        "subproblems": [_document(sub) for sub in problem.subproblems],
    }
