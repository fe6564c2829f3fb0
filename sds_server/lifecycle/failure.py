"""How an attempt at a Rotation ended, as metrics are told it; `told` is what people are told. Pure."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from acme_engine.errors import (
    AcmeError,
    DnsProviderError,
    NotServed,
    Unfinished,
    Unreachable,
    Untrusted,
    ZoneNotFound,
)
from acme_engine.errors import ChainError as BadChain
from sds_server.errors import CustodyError, GateRefused, OrderedTooOften

Failure = AcmeError | GateRefused | CustodyError
"""Why an attempt ended that the Rotation is put back for, with its reason."""


class Ended(StrEnum):
    """How an attempt ended.

    ``interrupted``: the database or the KMS was away, or certvoy stopped. ``waiting``: the CA would have
    counted the order against us. ``dns``: a value could not be published, or was not everywhere in time.
    """

    ISSUED = "issued"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    UNFINISHED = "unfinished"
    WAITING = "waiting"
    DNS = "dns"
    GATE = "gate"
    CUSTODY = "custody"
    LEASE_LOST = "lease_lost"
    INTERRUPTED = "interrupted"


_ENDS: Final[Sequence[tuple[tuple[type[Exception], ...], Ended]]] = (
    ((OrderedTooOften,), Ended.WAITING),  # also a GateRefused
    ((GateRefused, BadChain), Ended.GATE),
    ((CustodyError,), Ended.CUSTODY),
    ((Unreachable, Untrusted), Ended.UNREACHABLE),
    ((DnsProviderError, ZoneNotFound, NotServed), Ended.DNS),
    ((Unfinished,), Ended.UNFINISHED),
)


def ended(error: Failure) -> Ended:
    """Return how the attempt ended."""
    return next((end for kinds, end in _ENDS if isinstance(error, kinds)), Ended.REFUSED)
