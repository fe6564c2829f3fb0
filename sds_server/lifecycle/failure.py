"""How an attempt at a Rotation ended, as metrics are told it; `told` is what people are told. Pure."""

from enum import StrEnum

from acme_engine.errors import AcmeError, Unfinished, Unreachable, Untrusted
from acme_engine.errors import ChainError as BadChain
from sds_server.errors import CustodyError, GateRefused, OrderedTooOften

Failure = AcmeError | GateRefused | CustodyError
"""Why an attempt ended that the Rotation is put back for, with its reason."""


class Ended(StrEnum):
    """How an attempt ended.

    ``interrupted``: the database or the KMS was away, or certvoy stopped. ``waiting``: the CA would have
    counted the order against us.
    """

    ISSUED = "issued"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    UNFINISHED = "unfinished"
    WAITING = "waiting"
    GATE = "gate"
    CUSTODY = "custody"
    LEASE_LOST = "lease_lost"
    INTERRUPTED = "interrupted"


def ended(error: Failure) -> Ended:
    """Return how the attempt ended."""
    match error:
        case OrderedTooOften():
            return Ended.WAITING
        case GateRefused() | BadChain():
            return Ended.GATE
        case CustodyError():
            return Ended.CUSTODY
        case Unreachable() | Untrusted():
            return Ended.UNREACHABLE
        case Unfinished():
            return Ended.UNFINISHED
        case _:
            return Ended.REFUSED
