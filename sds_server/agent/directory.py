"""A directory that is the agent's alone: nobody else writes there, and no link that is planted is followed.

Every step begins at the one open directory, and a file is only ever made, never opened for writing where it
lies.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sds_server.errors import OperatorError

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_HINT: Final = "let the agent's user own it and nobody else write there: chown it, chmod 700"


class OwnDirectory:
    """One directory, opened anew for each step."""

    def __init__(self, path: Path, *, group: int | None = None) -> None:
        """``group``: its members may read, besides the owner; what has mode 0600 then has 0640."""
        self.path = path.absolute()
        self._group = group

    @contextmanager
    def opened(self, *, create: bool = False) -> Iterator[int]:
        """Give its descriptor.

        Raises:
            OperatorError: it is not there, or not ours alone; or what is done with it fails.
        """
        try:
            if create and not self.path.is_dir():
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync(self.path.parent)
            root = os.open(self.path, OPEN_DIRECTORY)
        except FileNotFoundError as e:
            raise OperatorError(f"{self.path}: there is nothing there", hint="let the agent make it") from e
        except OSError as e:
            raise OperatorError(f"{self.path}: {e.strerror}: a directory is wanted", hint=_HINT) from e
        try:
            _check_ours(self.path, root)
            yield root
        except OSError as e:
            raise OperatorError(
                f"{self.path}: {e.strerror}", hint="let the agent's user write there, and make room"
            ) from e
        finally:
            os.close(root)

    def write(self, name: str, content: bytes, *, mode: int, within: int) -> None:
        """Make a file and sync it; the directory ``within`` is its caller's to sync."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=within)
        with os.fdopen(descriptor, "wb") as file:
            self._share(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)

    def share(self, directory: int) -> None:
        """Let the group, if there is one, look into a directory of ours."""
        self._share(directory, 0o700)

    def _share(self, descriptor: int, mode: int) -> None:
        """Set the mode, whatever the umask; for the group, before anything is in the file."""
        if self._group is None:
            os.fchmod(descriptor, mode)
        else:
            os.fchown(descriptor, -1, self._group)
            os.fchmod(descriptor, mode | (mode & 0o500) >> 3)


def read_file(name: str, *, within: int) -> bytes | None:
    """Return what a file holds; None: it is not there. A link is not followed."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read()


def _sync(directory: Path) -> None:
    """Make it last what was made in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_ours(directory: Path, root: int) -> None:
    """Refuse a directory that others may change: they could put a key of theirs in place, or take ours."""
    found = os.fstat(root)
    if found.st_uid != os.geteuid():
        raise OperatorError(
            f"{directory}: it belongs to user {found.st_uid}, and the agent is {os.geteuid()}", hint=_HINT
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OperatorError(
            f"{directory}: others may write there (mode {found.st_mode & 0o7777:o})", hint=_HINT
        )
    for above in Path(os.path.realpath(directory)).parents:
        found = above.stat()
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise OperatorError(f"{above}, above {directory}: everybody may write there", hint="chmod o-w it")
