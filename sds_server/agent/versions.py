"""A directory whose files are replaced whole: who reads them sees all of the old or all of the new.

Each version is a directory of its own, written and synced before a link points to it; a link is put in its
place by a rename. Nothing here follows a link that somebody else has planted: every step begins at the one
open directory, and a file is only ever made, never opened for writing where it lies.
"""

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sds_server.agent.directory import OPEN_DIRECTORY, OwnDirectory, read_file
from sds_server.errors import OperatorError

CURRENT: Final = "current"
PREVIOUS: Final = "previous"
NOTHING: Final = ".nothing"
"""What `PREVIOUS` names where there was no version before."""

_PARTIAL: Final = ".partial"
"""What is renamed when it is whole."""


class Versions:
    """The versions in one directory, and the links to them. Who writes there is one process."""

    def __init__(self, directory: Path, *, prefix: str = ".version-", group: int | None = None) -> None:
        """``group``: its members may read, besides the owner; what has mode 0600 then has 0640."""
        self._own = OwnDirectory(directory, group=group)
        self.directory = self._own.path
        self._prefix = prefix
        self._known = re.compile(re.escape(prefix) + "[0-9a-f]{16}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no second agent work there meanwhile: by hand, say, beside a service.

        Raises:
            OperatorError: one does already.
        """
        with self._own.opened(create=True) as root:
            held = os.dup(root)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(held)
            raise OperatorError(
                f"{self.directory}: another agent works there",
                hint="stop that first, such as by `systemctl stop certvoy-pairs`",
            ) from e
        try:
            yield
        finally:
            os.close(held)

    def add(self, files: Mapping[str, tuple[bytes, int]]) -> str:
        """Write a version that no link points to yet, each file with its mode, and return its name.

        Raises:
            OperatorError: it cannot be written, or the directory is not ours alone.
        """
        with self._own.opened(create=True) as root:
            name = f"{self._prefix}{secrets.token_hex(8)}"
            os.mkdir(name, mode=0o700, dir_fd=root)
            version = os.open(name, OPEN_DIRECTORY, dir_fd=root)
            try:
                self._own.share(root)
                self._own.share(version)
                for file, (content, mode) in files.items():
                    self._own.write(file, content, mode=mode, within=version)
                os.fsync(version)
            finally:
                os.close(version)
            os.fsync(root)
            return name

    def write(self, name: str, content: bytes, *, mode: int) -> None:
        """Replace a file that lies beside the versions, in one step.

        Raises:
            OperatorError: it cannot be written.
        """
        with self._own.opened() as root:
            partial = self._partial()
            self._own.write(partial, content, mode=mode, within=root)
            os.rename(partial, name, src_dir_fd=root, dst_dir_fd=root)
            os.fsync(root)

    def point(self, link: str, version: str | None) -> None:
        """Let a link name a version, in one step; None: take the link away.

        Raises:
            OperatorError: it cannot be written.
        """
        with self._own.opened() as root:
            if version is None:
                with suppress(FileNotFoundError):
                    os.unlink(link, dir_fd=root)
            else:
                partial = self._partial()
                os.symlink(version, partial, dir_fd=root)
                os.rename(partial, link, src_dir_fd=root, dst_dir_fd=root)
            os.fsync(root)

    def named(self, link: str) -> str | None:
        """Return which version a link names; None: there is no such link.

        Raises:
            OperatorError: what is there is none of ours.
        """
        with self._own.opened() as root:
            try:
                name = os.readlink(link, dir_fd=root)
            except FileNotFoundError:
                return None
            except OSError as e:
                raise _planted(self.directory / link, "is no link") from e
            if name == NOTHING:
                return name
            if not self._known.fullmatch(name):
                raise _planted(self.directory / link, f"points to {name}, which is no version of ours")
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                    raise _planted(self.directory / name, "is no directory of ours")
            return name

    def read(self, version: str, file: str) -> bytes | None:
        """Return what a file of a version holds; None: it is not there.

        Raises:
            OperatorError: it cannot be read, or is a link.
        """
        with self._own.opened() as root:
            try:
                within = os.open(version, OPEN_DIRECTORY, dir_fd=root)
            except FileNotFoundError:
                return None
            try:
                return read_file(file, within=within)
            finally:
                os.close(within)

    def tidy(self, *, keep: Sequence[str | None]) -> None:
        """Remove every version but these, and what a process that died has left half-written.

        Raises:
            OperatorError: it cannot be written.
        """
        with self._own.opened() as root:
            for entry in os.listdir(root):  # noqa: PTH208 - a descriptor is listed
                if entry in keep or not entry.startswith(self._prefix):
                    continue
                if self._known.fullmatch(entry):
                    shutil.rmtree(entry, ignore_errors=True, dir_fd=root)  # refuses a link
                elif entry.endswith(_PARTIAL):
                    with suppress(FileNotFoundError):
                        os.unlink(entry, dir_fd=root)

    def _partial(self) -> str:
        return f"{self._prefix}{secrets.token_hex(8)}{_PARTIAL}"


def _planted(path: Path, what: str) -> OperatorError:
    return OperatorError(
        f"{path}: {what}: it was not the agent that put it there", hint="find out who did, then remove it"
    )
