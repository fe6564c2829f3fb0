"""Who is at the other end, and for how long that is believed: by certificate over TLS, or by Unix socket."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from math import inf
from typing import Final

from cryptography import x509

from sds_server.errors import CallerError
from sds_server.identity import Bearer, Holder
from sds_server.log import get
from sds_server.model import Identity

TLS_WANTED: Final = "a client certificate over TLS 1.3 is required"
BEARER_WANTED: Final = (
    "a token over TLS 1.3 is required, as `authorization: Bearer`: `certvoy token create NAME --identity ID`"
)
BEARER_WORTHLESS: Final = "the token is unknown, revoked or over: `certvoy token create NAME --identity ID`"

_log = get("sds")


class Status(StrEnum):
    """Why we end a stream or a fetch, by gRPC's names."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"


class Denied(StrEnum):
    """Why a peer may not see a name: in logs and audit only, as to the peer it is not there."""

    UNGRANTED = "no grant covers it"
    CROWDED = "the identity wants as many names as its grants let it"


class Ended(Exception):
    """We end the stream or the fetch, with this status."""

    def __init__(self, status: Status, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.details = details


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end; ``expires`` is when what it ``shows`` ends, None where it shows nothing.

    ``admitted`` says whether the peer is still believed to be who it said.
    """

    identity: Identity
    expires: datetime | None
    admitted: Callable[[], bool]
    shows: str = "client certificate"

    def left_s(self, now: datetime) -> float:
        """Return for how long it may stay, at most.

        Raises:
            Ended: not at all.
        """
        if not self.admitted():
            raise Ended(Status.UNAUTHENTICATED, "the client is not admitted any more")
        if self.expires is None:
            return inf
        left_s = (self.expires - now).total_seconds()
        if left_s <= 0:
            raise Ended(Status.UNAUTHENTICATED, f"the {self.shows} has expired")
        return left_s


@dataclass(frozen=True, slots=True)
class Door:
    """Says who calls. ``identify`` says whose certificate (PEM) it is; ``admits`` if that is believed still.

    ``denies``: who is refused wherever they come from, and by whatever they are known. ``bearer`` says
    whose a token is.
    """

    identify: Callable[[bytes], Holder]
    admits: Callable[[Holder], bool]
    denies: Callable[[Identity], bool] = lambda _identity: False
    bearer: Callable[[str], Bearer | None] = lambda _text: None

    def by_certificate(self, pem: bytes) -> Caller:
        """Return the holder of a certificate that TLS has verified.

        Raises:
            Ended: it names nobody that is believed.
        """
        try:
            holder, expires = self.identify(pem), x509.load_pem_x509_certificate(pem).not_valid_after_utc
        except (CallerError, ValueError) as e:
            _log.warning("client.refused", reason=str(e))
            raise Ended(Status.UNAUTHENTICATED, str(e)) from None
        return self._unless_denied(Caller(holder.identity, expires, partial(self.admits, holder)))

    def without_certificate(self) -> Ended:
        """Return what to say to who has shown none, or spoke an older TLS."""
        _log.warning("client.refused", reason=TLS_WANTED)
        return Ended(Status.UNAUTHENTICATED, TLS_WANTED)

    def by_token(self, authorization: str | None, now: datetime) -> Caller:
        """Return the bearer of the token in an Authorization header (RFC 6750 section 2.1).

        Raises:
            Ended: there is none, or nothing that is good.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise self.without_token()
        bearer = self.bearer(token.strip())
        if bearer is None or bearer.expires <= now:
            _log.warning("client.refused", reason=BEARER_WORTHLESS)
            raise Ended(Status.UNAUTHENTICATED, BEARER_WORTHLESS)
        return self._unless_denied(Caller(bearer.identity, bearer.expires, bearer.admitted, "token"))

    def without_token(self) -> Ended:
        """Return what to say to who has shown none, or spoke an older TLS."""
        _log.warning("client.refused", reason=BEARER_WANTED)
        return Ended(Status.UNAUTHENTICATED, BEARER_WANTED)

    def by_socket(self, identity: Identity) -> Caller:
        """Return whom the configuration says to be behind a socket; no certificate, so no end.

        Raises:
            Ended: the identity is denied.
        """
        return self._unless_denied(Caller(identity, None, self._is_welcome(identity)))

    def _is_welcome(self, identity: Identity) -> Callable[[], bool]:
        return lambda: not self.denies(identity)

    def _unless_denied(self, caller: Caller) -> Caller:
        if self.denies(caller.identity):
            _log.warning("client.refused", reason=f"{caller.identity} is denied")
            raise Ended(Status.UNAUTHENTICATED, f"{caller.identity} is denied")
        return caller
