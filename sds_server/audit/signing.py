"""The key that signs checkpoints: a file of this replica, out of the database's reach.

Whoever has it and the database can write another past, but not into a checkpoint file that lies elsewhere.
"""

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sds_server.audit.checkpoint import Signer
from sds_server.errors import CustodyError

FILE_BYTES_MAX: Final = 4096
NAME_DIGITS: Final = 16


def open_signer(path: Path, *, origin: str) -> Signer:
    """Return who signs checkpoints of ``origin`` with the key in the file; made when there is none.

    Its public half is written beside it, ``.pub`` in the place of the suffix, for whoever verifies.

    Raises:
        CustodyError: the file cannot be used; the message names it, the hint says what to do.
    """
    if not os.path.lexists(path):
        _create(path)
    signer = Signer(origin, _read(path))
    _publish(path.with_suffix(".pub"), f"{signer.public}\n")
    return signer


def _create(path: Path) -> None:
    """Make the file, whole or not at all."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)  # like a rename, but never over the key of one who was quicker
        new.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except OSError as e:
        raise _refused(path, f"cannot be made: {e.strerror}", "name a writable place in audit.key") from e


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        # NONBLOCK: a named pipe must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise _refused(path, "is a symlink", "name the file itself in audit.key") from None
        raise _refused(path, f"cannot be read: {e.strerror}", "let certvoy's user read it") from e
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # a directory cannot even be opened as a file
        os.close(descriptor)
        raise _refused(path, "is not a regular file", "name another file in audit.key")
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(status.st_mode)
        if wide := mode & ~_widest(path):
            found = f"has mode {mode:04o}, which is wider than 0600 by {wide:04o}"
            raise _refused(path, found, f"chmod 600 {path}, and consider who could sign with it until now")
        raw = file.read(FILE_BYTES_MAX)
    try:
        key = load_pem_private_key(raw, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        hint = "restore it; or remove it, and another is made: keep the public half of the old one"
        raise _refused(path, "must hold an Ed25519 key in PEM", hint)
    return key


def _publish(path: Path, text: str) -> None:
    """Write the public half, unless it lies there. Another one is kept: what its key signed needs it."""
    with contextlib.suppress(OSError):  # where the key is mounted read-only; the log has it too
        found = path.read_bytes() if path.exists() else None
        if found == text.encode():
            return
        if found is not None:
            name = hashlib.sha256(found).hexdigest()[:NAME_DIGITS]
            path.replace(path.with_name(f"{path.stem}-{name}{path.suffix}"))
        path.write_text(text)


def _widest(path: Path) -> int:
    """Return the mode that the key may have, as of a KEK in a file (`keys/local.py`)."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return 0o640 if credentials and path.parent == Path(credentials) else 0o600


def _refused(path: Path, found: str, hint: str) -> CustodyError:
    return CustodyError(f"audit key {path} {found}", hint=hint)
