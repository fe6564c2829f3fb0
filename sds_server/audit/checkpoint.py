"""Checkpoints: a tree's size and root, signed (C2SP tlog-checkpoint and signed-note, with Ed25519).

Three lines: the origin, which says whose tree it is; how many leaves; the root in base64. After an empty line
who signed: the key's name, then base64 of four bytes that name the key, and the signature.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sds_server.audit.tree import HASH_BYTES
from sds_server.errors import AuditBroken

ED25519: Final = b"\x01"
"""The algorithm's byte in key names (C2SP signed-note)."""

KEY_ID_BYTES: Final = 4
SIGNED_BY: Final = "\u2014 "
NOTE_BYTES_MAX: Final = 4096
"""Ours have 250; what is longer is none of ours."""

LINES: Final = 3

_KEY_HINT: Final = "it is the one line of `audit-key.pub`, by default in the replica's state_dir"
_NOTE_HINT: Final = "find out who wrote it; other checkpoints are in the log and in `audit.checkpoints`"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree's head: its origin, how many leaves it has, and their root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Who may sign checkpoints. As text a C2SP verifier key: ``NAME+HASH+BASE64``."""

    name: str
    raw: bytes

    @property
    def id(self) -> bytes:
        """What names the key in a signature's line: not enough to believe it."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.raw).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.raw).decode()}"

    def signed(self, text: str, signature: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Read ``NAME+HASH+BASE64``.

        Raises:
            AuditBroken: it is none, or its hash is another key's. The message does not have the text,
                which may be a private key that was mistaken for it.
        """
        try:
            name, key_id, encoded = text.strip().split("+", 2)
            raw = base64.b64decode(encoded, validate=True)
            Ed25519PublicKey.from_public_bytes(raw[1:])
        except ValueError as e:
            raise AuditBroken("it is no verifier key, NAME+HASH+BASE64", hint=_KEY_HINT) from e
        key = cls(name, raw[1:])
        if not name or raw[:1] != ED25519 or key.id.hex() != key_id:
            raise AuditBroken("it is no verifier key of Ed25519", hint=_KEY_HINT)
        return key


class Signer:
    """A key that signs in a name."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(name, key.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> str:
        """Return the signed note."""
        signature = base64.b64encode(self.public.id + self._key.sign(checkpoint.text.encode())).decode()
        return f"{checkpoint.text}\n{SIGNED_BY}{self.public.name} {signature}\n"


def parse(note: str) -> Checkpoint:
    """Read a note's checkpoint, whoever has signed it.

    Raises:
        AuditBroken: it is none.
    """
    lines = note.partition("\n\n")[0].split("\n")
    if len(note) > NOTE_BYTES_MAX or len(lines) < LINES or not lines[0]:
        raise AuditBroken("it has not the three lines of a checkpoint", hint=_NOTE_HINT)
    origin, size, encoded = lines[:LINES]
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size):
        raise AuditBroken("its second line is not the size of a tree", hint=_NOTE_HINT)
    try:
        root = base64.b64decode(encoded, validate=True)
    except ValueError:
        root = b""
    if len(root) != HASH_BYTES:
        raise AuditBroken("its third line is not the root of a tree", hint=_NOTE_HINT)
    return Checkpoint(origin, int(size), root)


def signers(note: str, keys: Iterable[PublicKey]) -> frozenset[PublicKey]:
    """Return which of the keys have signed this note; none: nobody who is known."""
    text, separator, rest = note.partition("\n\n")
    by_line: Mapping[tuple[str, bytes], PublicKey] = {(key.name, key.id): key for key in keys}
    found = set()
    for line in rest.splitlines() if separator else ():
        name, _, encoded = line.removeprefix(SIGNED_BY).rpartition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError:
            continue
        key = by_line.get((name, raw[:KEY_ID_BYTES])) if line.startswith(SIGNED_BY) else None
        if key is not None and key.signed(text + "\n", raw[KEY_ID_BYTES:]):
            found.add(key)
    return frozenset(found)
