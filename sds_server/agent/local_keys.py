"""Private keys that are made on this host and never leave it: a file each, for the agent alone.

A file is named by a number that grows and by the beginning of the key's SPKI hash, so that a chain finds its
key whatever has happened in between. A key is on the disk before anybody hears of it.
"""

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from acme_engine import keys
from acme_engine.keys import PrivateKey
from sds_server.agent.directory import OwnDirectory, read_file

DIRECTORY: Final = "keys"
"""Beside the versions of the pair. Its group may not read here: what is served has a copy of its key."""

KEPT_MAX: Final = 256
"""So many there may be; then the oldest goes. Each is used up by one order, so this many failed in a row."""

PREFIX: Final = 32
"""Hex digits of the SPKI hash in a name. What a file holds is compared with the whole hash."""

_NAME: Final = re.compile(rf"(\d{{6,}})-([0-9a-f]{{{PREFIX}}})\.pem")
_PARTIAL: Final = ".partial"


@dataclass(frozen=True, slots=True, order=True)
class KeyFile:
    """Which key a file holds: ``number`` says in which order they were made."""

    number: int
    prefix: str

    @property
    def name(self) -> str:
        """What the file is called."""
        return f"{self.number:06}-{self.prefix}.pem"

    def holds(self, spki_sha256: bytes) -> bool:
        """Whether it is the file of this key."""
        return self.prefix == spki_sha256.hex()[:PREFIX]


def expendable(files: Sequence[KeyFile], *, current: bytes, before: bytes | None) -> Sequence[KeyFile]:
    """Return those that no chain can come back for; the keys are named by their SPKI hash.

    Needed are the key that is served, the one that was served before that, as certvoy may go back to it, and
    all that were made later: a chain of any of these may be under way.
    """
    served = [file for file in files if file.holds(current)]
    if not served:
        return []
    older = [file for file in files if file < served[-1]]
    return [file for file in older if before is None or not file.holds(before)]


class LocalKeys:
    """The keys of one bundle, in a directory below its own."""

    def __init__(self, directory: Path) -> None:
        self._own = OwnDirectory(directory / DIRECTORY)

    def add(self, key: PrivateKey) -> KeyFile:
        """Keep a key; when this returns, a power cut does not take it away.

        Raises:
            OperatorError: it cannot be written, or the directory is not ours alone.
        """
        with self._own.opened(create=True) as root:
            before = sorted(_files(root))
            number = before[-1].number + 1 if before else 1
            file = KeyFile(number, keys.spki_sha256(key.public_key()).hex()[:PREFIX])
            partial = f".{secrets.token_hex(8)}{_PARTIAL}"
            self._own.write(partial, keys.pem(key), mode=0o600, within=root)
            os.rename(partial, file.name, src_dir_fd=root, dst_dir_fd=root)
            for old in before[: max(len(before) + 1 - KEPT_MAX, 0)]:
                os.unlink(old.name, dir_fd=root)
            os.fsync(root)
        return file

    def find(self, spki_sha256: bytes) -> PrivateKey | None:
        """Return the key whose public half has this hash; None: it is not here.

        Raises:
            OperatorError: the directory cannot be read, or is not ours alone.
        """
        with self._own.opened(create=True) as root:
            for file in _files(root):
                if file.holds(spki_sha256):
                    key = _read(root, file)
                    if key is not None and keys.spki_sha256(key.public_key()) == spki_sha256:
                        return key
        return None

    def all(self) -> Sequence[PrivateKey]:
        """Return every key that is kept, the oldest first.

        Raises:
            OperatorError: the directory cannot be read, or is not ours alone.
        """
        with self._own.opened(create=True) as root:
            read = [_read(root, file) for file in sorted(_files(root))]
        return [key for key in read if key is not None]

    def newest(self, *, after: bytes | None) -> PrivateKey | None:
        """Return the key that was made last, if that was after the one of this hash, which is served.

        Raises:
            OperatorError: the directory cannot be read, or is not ours alone.
        """
        with self._own.opened(create=True) as root:
            for file in sorted(_files(root), reverse=True):
                if after is not None and file.holds(after):
                    return None
                if (key := _read(root, file)) is not None:
                    return key
        return None

    def tidy(self, *, current: bytes, before: bytes | None) -> int:
        """Remove what `expendable` names, and what a process that died has half-written; say how many keys.

        Raises:
            OperatorError: it cannot be written.
        """
        with self._own.opened(create=True) as root:
            old = expendable(list(_files(root)), current=current, before=before)
            half = [entry for entry in os.listdir(root) if entry.endswith(_PARTIAL)]  # noqa: PTH208 - a descriptor
            for name in [*(file.name for file in old), *half]:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)
            os.fsync(root)
        return len(old)


def _files(root: int) -> Iterator[KeyFile]:
    for entry in os.listdir(root):
        if found := _NAME.fullmatch(entry):
            yield KeyFile(int(found[1]), found[2])


def _read(root: int, file: KeyFile) -> PrivateKey | None:
    """Return what a file holds; None: no key of a type that we make, so that another is made."""
    try:
        key = serialization.load_pem_private_key(read_file(file.name, within=root) or b"", None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, PrivateKey) else None
