"""The key that signs checkpoints: a file of this replica, out of the database's reach.

Whoever has it and the database can write another past, but not into a checkpoint file that lies elsewhere.
"""

import contextlib
import hashlib
import os
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
from sds_server.private_file import PrivateFile

NAME_DIGITS: Final = 16


def open_signer(path: Path, *, origin: str) -> Signer:
    """Return who signs checkpoints of ``origin`` with the key in the file; made when there is none.

    Its public half is written beside it, ``.pub`` in the place of the suffix, for whoever verifies.

    Raises:
        CustodyError: the file cannot be used; the message names it, the hint says what to do.
    """
    file = PrivateFile(path, "audit key", "audit.key", "let certvoy's user read it", "sign with it")
    if not os.path.lexists(path):
        made = Ed25519PrivateKey.generate()
        file.create(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signer = Signer(origin, _key(file))
    _publish(path.with_suffix(".pub"), f"{signer.public}\n")
    return signer


def _key(file: PrivateFile) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(file.read(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        hint = "restore it; or remove it, and another is made: keep the public half of the old one"
        raise file.refused("must hold an Ed25519 key in PEM", hint)
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
