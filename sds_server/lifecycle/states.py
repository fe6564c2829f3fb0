"""The certificate's state machine as one table: `(status, event) -> status`; anything else is an error.

Read it row by row beside docs/architecture.md. `inventory.certificates.move` is its only writer.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from sds_server.errors import IllegalTransition
from sds_server.model import CertificateStatus as S


class Event(StrEnum):
    """What can happen to a Certificate."""

    CONFIRMED = "confirmed"  # a Target proved that it serves it, or no Target exists
    DUE = "due"  # its renewal is wanted
    CLAIMED = "claimed"  # a worker is at its successor
    DEFERRED = "deferred"  # the renewal is put off: the CA's window moved
    FAILED = "failed"  # the attempt at its successor failed, or the successor was rejected
    COMPLETED = "completed"  # its successor is proved everywhere
    SUPERSEDED = "superseded"  # its successor is itself being replaced before it was proved everywhere
    REJECTED = "rejected"  # the gate or the Targets refused it
    LAPSED = "lapsed"  # its notAfter has passed
    REVOKED = "revoked"  # its CA has revoked it


_LIVING: Final = (S.ISSUED, S.ACTIVE, S.EXPIRING_SOON, S.ROTATING, S.REPLACED)

TRANSITIONS: Final[Mapping[tuple[S, Event], S]] = {
    (S.ISSUED, Event.CONFIRMED): S.ACTIVE,
    (S.ISSUED, Event.DUE): S.EXPIRING_SOON,
    (S.ISSUED, Event.REJECTED): S.REJECTED,
    (S.ACTIVE, Event.DUE): S.EXPIRING_SOON,
    (S.ACTIVE, Event.REJECTED): S.REJECTED,
    (S.EXPIRING_SOON, Event.CLAIMED): S.ROTATING,
    (S.ROTATING, Event.DEFERRED): S.ACTIVE,
    (S.ROTATING, Event.FAILED): S.EXPIRING_SOON,
    (S.ROTATING, Event.COMPLETED): S.REPLACED,
    (S.ROTATING, Event.SUPERSEDED): S.REPLACED,
    **{(status, Event.LAPSED): S.EXPIRED for status in _LIVING},
    # A rejected one was issued all the same: whoever has its key can use it until it is revoked.
    **{(status, Event.REVOKED): S.REVOKED for status in (*_LIVING, S.REJECTED)},
}


def after(status: S, event: Event) -> S:
    """Return the status that the event leads to.

    Raises:
        IllegalTransition: the event cannot happen to a Certificate in this status.
    """
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalTransition(f"a certificate that is {status} cannot be {event}") from None


def allows(status: S, event: Event) -> bool:
    """Whether the event can happen in this status; some may come too late, such as a second proof."""
    return (status, event) in TRANSITIONS
