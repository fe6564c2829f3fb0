"""Keys that are made here for a proxy beside us, each laid where the proxy finds it: by its public half.

The control plane names a key by a path that ends in the SHA-256 of its public half. So no two keys have one
path, a chain never meets the key of another, and the file is there before anybody hears of the key.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from acme_engine import keys
from acme_engine.keys import PrivateKey
from sds_server.agent.directory import OwnDirectory
from sds_server.agent.local_keys import KeyFile, LocalKeys

_NAME: Final = re.compile(r"([0-9a-f]{64})\.pem")
_PARTIAL: Final = ".partial"


class ProxyKeys(LocalKeys):
    """The keys of one Secret: ours in ``keys/``, and a copy of each beside that, for the proxy's group."""

    def __init__(self, directory: Path, *, group: int | None = None) -> None:
        """``group``: its members may read the copies; without it the proxy runs as our user."""
        super().__init__(directory)
        self._laid = OwnDirectory(directory, group=group)

    def add(self, key: PrivateKey) -> KeyFile:
        """Keep a key and lay it out; when this returns, a power cut takes neither away.

        Raises:
            OperatorError: it cannot be written, or a directory is not ours alone.
        """
        with self._laid.opened(create=True) as root:
            self._laid.share(root)
        file = super().add(key)
        self._lay(key)
        return file

    def lay_out(self) -> None:
        """Lay out what is kept and is not there: we were killed in between, or somebody took it away.

        Raises:
            OperatorError: it cannot be written, or a directory is not ours alone.
        """
        with self._laid.opened(create=True) as root:
            self._laid.share(root)
            there = {found[1] for entry in os.listdir(root) if (found := _NAME.fullmatch(entry))}  # noqa: PTH208 - a descriptor
        for key in self.all():
            if keys.spki_sha256(key.public_key()).hex() not in there:
                self._lay(key)

    def tidy(self, *, current: bytes, before: bytes | None) -> int:
        """Remove keys as `LocalKeys.tidy` does, and the copies of those that are gone."""
        removed = super().tidy(current=current, before=before)
        kept = {keys.spki_sha256(key.public_key()).hex() for key in self.all()}
        with self._laid.opened() as root:
            for entry in os.listdir(root):  # noqa: PTH208 - a descriptor is listed
                found = _NAME.fullmatch(entry)
                if (found and found[1] not in kept) or entry.endswith(_PARTIAL):
                    with suppress(FileNotFoundError):
                        os.unlink(entry, dir_fd=root)
            os.fsync(root)
        return removed

    def _lay(self, key: PrivateKey) -> None:
        name = f"{keys.spki_sha256(key.public_key()).hex()}.pem"
        with self._laid.opened() as root:
            partial = f".{secrets.token_hex(8)}{_PARTIAL}"
            # 0400 and not 0600: nobody writes there, and for the group it becomes 0440.
            self._laid.write(partial, keys.pem(key), mode=0o400, within=root)
            os.rename(partial, name, src_dir_fd=root, dst_dir_fd=root)
            os.fsync(root)
