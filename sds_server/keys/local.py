"""A KEK in a file: for trials and tests. Whoever can read the file and the database has every private key."""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sds_server.errors import CustodyError
from sds_server.keys.kms import WrappedDek, canonical
from sds_server.private_file import PrivateFile

KEK_BYTES = 32
NONCE_BYTES = 12
VERSION = 1  # a file has one KEK; another KEK has another name
HEADER = """\
# certvoy's local KEK: it wraps the key of every private key in the inventory. For trials, not for production.
# Without this file no stored key can be opened; with it and the database, all can.
"""
LOST = "restore it from where it was kept: without it no stored key can be opened"


class LocalKms:
    """AES-256-GCM with a random nonce; the context is authenticated.

    ``create`` makes the file when there is none. A file that others may read, or that is not what this module
    writes, is refused.

    Raises:
        CustodyError: the file cannot be used; the message names it, the hint says what to do.
    """

    insecure = True

    def __init__(self, path: Path, *, create: bool = False) -> None:
        file = PrivateFile(path, "local KEK", "kms.key_file", LOST, "read it")
        if create and not os.path.lexists(path):
            file.create((HEADER + base64.b64encode(os.urandom(KEK_BYTES)).decode() + "\n").encode())
        kek = _key(file)
        # Nothing about 32 random bytes follows from their hash.
        self.kek_uri = f"local:{hashlib.sha256(b'certvoy local KEK' + kek).hexdigest()[:16]}"
        self._cipher = AESGCM(kek)

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes."""
        nonce = os.urandom(NONCE_BYTES)
        return WrappedDek(nonce + self._cipher.encrypt(nonce, dek, canonical(context)), VERSION)

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`."""
        if kek_version != VERSION:
            raise CustodyError(f"kek: {self.kek_uri} has no version {kek_version}")
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], canonical(context))
        except (InvalidTag, ValueError):
            raise CustodyError(
                f"kek: {self.kek_uri} did not wrap this DEK for {dict(context)}, or its bytes were changed"
            ) from None

    async def rewrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        """Wrap the same DEK with another nonce."""
        return await self.wrap(await self.unwrap(wrapped, kek_version=kek_version, context=context), context)

    async def close(self) -> None:
        """Nothing is open."""


def _key(file: PrivateFile) -> bytes:
    lines = [line for line in file.read().split(b"\n") if line and not line.startswith(b"#")]
    try:
        kek = base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        kek = b""
    if len(kek) != KEK_BYTES:
        found = f"must hold {KEK_BYTES} bytes in base64 on one line"
        raise file.refused(found, "restore it; if no key was ever sealed, remove it and start again")
    return kek
