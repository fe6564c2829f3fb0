"""A file whose content only we may know, made by us: a KEK, a signing key."""

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sds_server.errors import CustodyError

BYTES_MAX: Final = 4096
MODE: Final = 0o600
CREDENTIALS_MODE: Final = 0o640
"""In the directory of systemd's credentials the group's bits are the mask of an ACL that names us alone."""


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """``what`` lies at ``path``, which the configuration names as ``setting``.

    ``lost`` is the next step where it cannot be read; ``misuse`` what others could do who read it.
    """

    path: Path
    what: str
    setting: str
    lost: str
    misuse: str

    def create(self, content: bytes) -> None:
        """Make the file, whole or not at all; where another was quicker, theirs stays.

        Raises:
            CustodyError: it cannot be made there.
        """
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                self.path.hardlink_to(new)  # like a rename, but never over what one made who was quicker
            new.unlink()
            directory = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        except OSError as e:
            hint = f"name a writable place in {self.setting}"
            raise self.refused(f"cannot be made: {e.strerror}", hint) from e

    def read(self) -> bytes:
        """Return what it holds, up to `BYTES_MAX`.

        Raises:
            CustodyError: it cannot be read, is no regular file, or others may read it.
        """
        try:
            # NONBLOCK: a named pipe must not hang the start.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            if e.errno == errno.ELOOP:
                raise self.refused("is a symlink", f"name the file itself in {self.setting}") from None
            raise self.refused(f"cannot be read: {e.strerror}", self.lost) from e
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):  # a directory cannot even be opened as a file
            os.close(descriptor)
            raise self.refused("is not a regular file", f"name another file in {self.setting}")
        with os.fdopen(descriptor, "rb") as file:
            mode = stat.S_IMODE(status.st_mode)
            if wide := mode & ~self._widest:
                found = f"has mode {mode:04o}, which is wider than 0600 by {wide:04o}"
                hint = f"chmod 600 {self.path}, and consider who could {self.misuse} until now"
                raise self.refused(found, hint)
            return file.read(BYTES_MAX)

    def refused(self, found: str, hint: str) -> CustodyError:
        """Return the error that says what was found of the file, and what to do."""
        return CustodyError(f"{self.what} {self.path} {found}", hint=hint)

    @property
    def _widest(self) -> int:
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        return CREDENTIALS_MODE if credentials and self.path.parent == Path(credentials) else MODE
