"""What a Secret holds that is no certificate: of which kind, how it is kept, whether it may leave. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self, assert_never

from sds_server.errors import GateRefused
from sds_server.model import Kind
from sds_server.payloads import generic, tickets, trust
from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.tickets import TicketKeys
from sds_server.payloads.trust import TrustBundle

Content = TrustBundle | TicketKeys | GenericSecret

DATED: Final = frozenset({"dates", "crl"})
"""Rules of which time is part: what breaks one may be well by another clock."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a version holds, as anybody may know it who may read the inventory.

    ``keys``: how many ticket keys; ``parts``: the names of a generic secret's values, none where it is one.
    """

    bundle: TrustBundle | None = None
    keys: int | None = None
    parts: tuple[str, ...] | None = None

    @classmethod
    def of(cls, content: Content) -> Self:
        """Say it of what is open."""
        match content:
            case TrustBundle():
                return cls(bundle=content)
            case TicketKeys():
                return cls(keys=len(content.keys))
            case GenericSecret():
                return cls(parts=tuple(sorted(content.parts)))
            case _:
                assert_never(content)


def kind_of(content: Content) -> Kind:
    """Return the one kind that it can be sent as."""
    match content:
        case TrustBundle():
            return Kind.VALIDATION_CONTEXT
        case TicketKeys():
            return Kind.SESSION_TICKET_KEYS
        case GenericSecret():
            return Kind.GENERIC_SECRET
        case _:
            assert_never(content)


def opened(kind: Kind, raw: bytes) -> Content:
    """Read what was kept.

    Raises:
        GateRefused: rule content: it cannot be read. The message quotes nothing of it.
    """
    try:
        match kind:
            case Kind.VALIDATION_CONTEXT:
                return TrustBundle.from_text(raw.decode())
            case Kind.SESSION_TICKET_KEYS:
                return TicketKeys.from_bytes(raw)
            case Kind.GENERIC_SECRET:
                return GenericSecret.from_bytes(raw)
            case Kind.TLS_CERTIFICATE:
                raise GateRefused("kind", "a certificate is no payload", hint="rotate it")
            case _:
                assert_never(kind)
    except (ValueError, KeyError, TypeError):
        raise GateRefused("content", f"what is kept as {kind} cannot be read", hint="put it anew") from None


def check(content: Content, *, kind: Kind, now: datetime | None) -> None:
    """Ask the content gate: once before it is stored, and again before a replica first sends it.

    Raises:
        GateRefused: rule kind, where it is not what the Secret is for ever; else the first that is broken.
    """
    if kind_of(content) is not kind:
        said = f"it is a {kind_of(content)}, and the secret is a {kind} for ever"
        raise GateRefused("kind", said, hint="use another name")
    match content:
        case TrustBundle():
            trust.check(content, now=now)
        case TicketKeys():
            tickets.check(content)
        case GenericSecret():
            generic.check(content)
        case _:
            assert_never(content)


def binding(kind: Kind, secret: str) -> bytes:
    """Return what a sealed payload is bound to in place of a public key: its Secret and kind, 32 bytes."""
    return hashlib.sha256(f"{kind}\n{secret}".encode()).digest()
