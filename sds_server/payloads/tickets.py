"""Session ticket keys: what lets a client that comes back skip most of a handshake. Pure.

Envoy encrypts with the first and opens with any: so a new one comes first, and the ones before stay for as
long as tickets of theirs are about. Whoever has such a key reads the sessions that were resumed with it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from sds_server.errors import GateRefused

KEY_BYTES: Final = 80
"""Envoy's: a name of 16, an HMAC key of 32 and an AES key of 32."""

KEEP_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class TicketKeys:
    """Keys, the one that encrypts first."""

    keys: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read what `raw` writes."""
        return cls(tuple(raw[at : at + KEY_BYTES] for at in range(0, len(raw), KEY_BYTES)))

    @property
    def raw(self) -> bytes:
        """Return it as it is sealed."""
        return b"".join(self.keys)

    def rotated(self, *, keep: int, random: Callable[[int], bytes] = os.urandom) -> Self:
        """Return them with a new one first, ``keep`` in all."""
        return type(self)((random(KEY_BYTES), *self.keys)[:keep])


def check(tickets: TicketKeys) -> None:
    """Let keys pass that Envoy takes; a refusal quotes none of them.

    Raises:
        GateRefused: ``rule`` is empty, size or repeated.
    """
    if not tickets.keys:
        raise GateRefused("empty", "there is no key", hint=f"send at least one, of {KEY_BYTES} bytes")
    if len(tickets.keys) > KEEP_MAX:
        said = f"there are {len(tickets.keys)} keys; at most {KEEP_MAX} are taken"
        raise GateRefused("size", said, hint="leave the oldest out: tickets of theirs are over")
    for number, key in enumerate(tickets.keys, 1):
        if len(key) != KEY_BYTES:
            said = f"key {number} has {len(key)} bytes, not {KEY_BYTES}"
            raise GateRefused("size", said, hint=f"openssl rand {KEY_BYTES} makes one")
    if len(set(tickets.keys)) < len(tickets.keys):
        raise GateRefused("repeated", "one key is there twice", hint="send each once, the newest first")
