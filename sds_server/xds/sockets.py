"""Unix sockets for proxies on this machine: one for each identity, as gRPC does not say who connects to one.

Whoever may open the socket is the identity, so its directory and its mode are what keeps others out.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sds_server.errors import OperatorError, Unavailable
from sds_server.model import Identity

DIRECTORY_MODE: Final = 0o750
SOCKET_MODE: Final = 0o660
PATH_BYTES_MAX: Final = 107  # of sun_path, with its zero


@dataclass(frozen=True, slots=True)
class SdsSocket:
    """A socket, and who is taken to be behind it."""

    path: Path
    identity: Identity

    @property
    def address(self) -> str:
        """What gRPC calls it."""
        return f"unix:{self.path}"


@contextmanager
def place_for(sds_socket: SdsSocket) -> Iterator[None]:
    """Make the path ready, so that what the block binds there is for the group alone.

    A directory that is not there is made. What a killed process left behind goes; what somebody listens on,
    or is no socket, does not.

    Raises:
        OperatorError: the path cannot be used; it says why.
        Unavailable: somebody listens there.
    """
    path = sds_socket.path
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise _error(path, f"has more than {PATH_BYTES_MAX} bytes", "choose a shorter path, as below /run")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            path.parent.chmod(DIRECTORY_MODE)  # whatever the umask is
        _check_directory(path, path.parent.stat())
        _clear(path)
    except OSError as e:
        raise _error(
            path, str(e.strerror), "let certvoy's user own the directory, and give it mode 0750"
        ) from e
    mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        yield
    finally:
        os.umask(mask)


def _check_directory(path: Path, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in {0, os.geteuid()}:
        raise _error(path, f"its directory belongs to uid {found.st_uid}", f"chown it to uid {os.geteuid()}")
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise _error(
            path, f"its directory has mode {mode:04o}: others could use or replace it", "chmod 0750 it"
        )


def _clear(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _error(path, "is there, and no socket", "remove it, or choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise Unavailable(
        f"sds.sockets: {path}: another process listens there",
        hint="stop it, or give each certvoy its own path",
    )


def _error(path: Path, what: str, hint: str) -> OperatorError:
    return OperatorError(f"sds.sockets: {path}: {what}", hint=hint)
