"""A KEK in a file: for trials and tests. Whoever can read the file and the database has every private key."""

import base64
import binascii
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sds_server.errors import CustodyError
from sds_server.keys.kms import WrappedDek, canonical

KEK_BYTES = 32
NONCE_BYTES = 12
VERSION = 1  # a file has one KEK; another KEK has another name
FILE_BYTES_MAX = 4096
HEADER = """\
# certvoy's local KEK: it wraps the key of every private key in the inventory. For trials, not for production.
# Without this file no stored key can be opened; with it and the database, all can.
"""


class LocalKms:
    """AES-256-GCM with a random nonce; the context is authenticated.

    ``create`` makes the file when there is none. A file that others may read, or that is not what this module
    writes, is refused.

    Raises:
        CustodyError: the file cannot be used; the message names it, the hint says what to do.
    """

    insecure = True

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create and not os.path.lexists(path):
            _create(path)
        kek = _read(path)
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


def _create(path: Path) -> None:
    """Make the file, whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(HEADER + base64.b64encode(os.urandom(KEK_BYTES)).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)  # like a rename, but never over the KEK of one who was quicker
        new.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except OSError as e:
        raise _refused(path, f"cannot be made: {e.strerror}", "name a writable place in kms.key_file") from e


def _read(path: Path) -> bytes:
    try:
        # NONBLOCK: a named pipe must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise _refused(path, "is a symlink", "name the file itself in kms.key_file") from None
        hint = "restore it from where it was kept: without it no stored key can be opened"
        raise _refused(path, f"cannot be read: {e.strerror}", hint) from e
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "is not a regular file", "name another file in kms.key_file")
        if wide := stat.S_IMODE(status.st_mode) & ~_widest(path):
            mode = stat.S_IMODE(status.st_mode)
            found = f"has mode {mode:04o}, which is wider than 0600 by {wide:04o}"
            raise _refused(path, found, f"chmod 600 {path}, and consider who could read it until now")
        text = file.read(FILE_BYTES_MAX)
    lines = [line for line in text.split(b"\n") if line and not line.startswith(b"#")]
    try:
        kek = base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        kek = b""
    if len(kek) != KEK_BYTES:
        found = f"must hold {KEK_BYTES} bytes in base64 on one line"
        raise _refused(path, found, "restore it; if no key was ever sealed, remove it and start again")
    return kek


def _widest(path: Path) -> int:
    """Return the mode that a KEK may have.

    In the directory of systemd's credentials the group's bits are the mask of an ACL that names us alone.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return 0o640 if credentials and path.parent == Path(credentials) else 0o600


def _refused(path: Path, found: str, hint: str) -> CustodyError:
    return CustodyError(f"local KEK {path} {found}", hint=hint)
