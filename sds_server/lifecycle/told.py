"""What an operator is told of a failure: in our words, with the next step, and whole in the CA's."""

from collections.abc import Sequence
from typing import Any

from acme_engine.errors import AcmeError, OrderFailed, Problem
from sds_server.errors import CertvoyError, GateRefused

Failure = AcmeError | CertvoyError


def told(error: Failure) -> dict[str, Any]:
    """Return it as the inventory keeps it, and the API and the commands show it."""
    rule = {"rule": error.rule} if isinstance(error, GateRefused) else {}
    return rule | {
        "what": str(error),
        "hint": error.hint if isinstance(error, AcmeError) else error.next_step,
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
