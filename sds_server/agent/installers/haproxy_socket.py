"""HAProxy's runtime API: a certificate is changed as a transaction, each command on a connection of its own.

HAProxy has one such transaction at a time, for all who speak to it, and what is set while one is open can
land in that one, whatever name it was meant for (seen with 2.6). So a change is made under a lock, and in a
transaction that was opened by it and by nobody else.
"""

import asyncio
import fcntl
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sds_server.agent.installers.installer import NotRunning, Rejected

ANSWER_S: Final = 5.0
"""A command takes milliseconds."""

ANSWER_MAX: Final = 4 * 1024 * 1024
"""A list of certificates has a line for each."""

TURN_S: Final = 10.0
"""How long others are waited for; a change of theirs takes milliseconds."""

TURN_POLL_S: Final = 0.02

_TRANSACTION: Final = re.compile(r"Transaction (created|updated) for certificate (.+)!")
_OTHERS: Final = re.compile(r"ongoing transaction is about '([^']+)'")


@dataclass(frozen=True, slots=True)
class Known:
    """A certificate that HAProxy holds; ``used``: a bind line has it. ``sha1``: its leaf's, in upper case."""

    used: bool
    sha1: str


class RuntimeApi:
    """The stats socket of one HAProxy, which has to be of ``level admin``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold the lock, within this process and among others: it is gone with who held it.

        Raises:
            NotRunning: there is no such directory, or others hold it for too long.
            Rejected: anyone could listen there in HAProxy's place.
        """
        try:
            lock = _lock_beside(self._path)
        except OSError as e:
            raise NotRunning(f"{self._path.parent}: {e.strerror}") from None
        try:
            await self._lock(lock)
            yield
        finally:
            os.close(lock)

    async def _lock(self, lock: int) -> None:
        try:
            async with asyncio.timeout(TURN_S):
                while not _locked(lock):
                    await asyncio.sleep(TURN_POLL_S)
        except TimeoutError:
            raise NotRunning(f"{self._path}: somebody else changes things for {TURN_S:g} s now") from None

    async def known(self, name: str) -> Known | None:
        """Return what HAProxy holds under the name; None: it knows none."""
        said = await self.say(f"show ssl cert {name}")
        used = re.search(r"^Status: (\w+)", said, re.MULTILINE)
        sha1 = re.search(r"^SHA1 FingerPrint: ([0-9A-F]+)", said, re.MULTILINE)
        if used is None:
            if "Not found" in said:
                return None
            raise Rejected(f"show ssl cert {name}: {said}")
        return Known(used=used[1] == "Used", sha1="" if sha1 is None else sha1[1])

    async def set(self, name: str, pem: bytes) -> None:
        """Open a transaction with this pair in it, which serves nothing yet. HAProxy has parsed it then.

        Raises:
            Rejected: HAProxy cannot use it; no transaction is left.
        """
        lines = [line for line in pem.decode().splitlines() if line.strip()]  # an empty one would end it
        command = f"set ssl cert {name} <<\n" + "\n".join(lines) + "\n"
        await self.abort(name)  # of an agent that was killed
        said = await self.say(command)
        opened = _TRANSACTION.search(said)
        if (opened is None or opened.groups() != ("created", name)) and (other := _other(said, opened)):
            # Under the lock nobody else has one open, but for who was killed, or does not know of the lock.
            await self.abort(other)
            said = await self.say(command)
            opened = _TRANSACTION.search(said)
        if opened is None or opened.groups() != ("created", name):
            await self.abort(name)
            if not said:
                raise Rejected(
                    f"HAProxy hung up on {len(command)} bytes of certificate and key:"
                    " its tune.bufsize, by default 16384, has to be larger"
                )
            raise Rejected(said)

    async def commit(self, name: str) -> None:
        """Serve what was set, from the next handshake on.

        Raises:
            Rejected: HAProxy will not; no transaction is left, and it serves what it served.
        """
        said = await self.say(f"commit ssl cert {name}")
        if "Success!" not in said:
            await self.abort(name)
            raise Rejected(said)

    async def abort(self, name: str) -> None:
        """Forget what was set and not committed; nothing, where nothing was."""
        await self.say(f"abort ssl cert {name}")

    async def new(self, name: str) -> None:
        """Make an empty certificate of that name, to be set."""
        said = await self.say(f"new ssl cert {name}")
        if "New empty certificate" not in said:
            raise Rejected(said)

    async def lists(self, crt_list: str, name: str) -> bool:
        """Whether a crt-list that is in use names the certificate."""
        said = await self.say(f"show ssl crt-list {crt_list}")
        if not said.startswith("#"):
            raise Rejected(f"show ssl crt-list {crt_list}: {said}")
        return any(line.split()[:1] == [name] for line in said.splitlines()[1:])

    async def add(self, crt_list: str, name: str) -> None:
        """Let a crt-list that is in use name the certificate, for the names of its leaf."""
        said = await self.say(f"add ssl crt-list {crt_list} {name}")
        if "Success!" not in said:
            raise Rejected(said)

    async def say(self, command: str) -> str:
        """Send a command and return the answer; none, where HAProxy hung up.

        Raises:
            NotRunning: nobody listens there, or answers in time, which is no fault of a pair's.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=ANSWER_MAX)
                try:
                    writer.write(f"{command}\n".encode())
                    return (await _all(reader)).decode(errors="replace").strip()
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise NotRunning(f"{self._path}: HAProxy does not answer within {ANSWER_S:g} s") from None
        except (ConnectionResetError, BrokenPipeError):
            return ""
        except OSError as e:
            raise NotRunning(f"{self._path}: {e.strerror}") from None


def _other(said: str, opened: re.Match[str] | None) -> str | None:
    """Return whose transaction was open already; None: nobody's."""
    if opened is not None:
        return opened[2]
    about = _OTHERS.search(said)
    return None if about is None else about[1]


def _lock_beside(path: Path) -> int:
    """Open what is locked: a file that nobody else can open, as everybody may lock what they can read.

    Where the agent may not make one, the directory itself.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.fstat(directory).st_mode & stat.S_IWOTH:
        os.close(directory)
        raise Rejected(f"{path.parent}: everybody may write there: whoever listens there is given the key")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        lock = os.open(f".{path.name}.lock", flags, 0o600, dir_fd=directory)
    except OSError:
        return directory
    found = os.fstat(lock)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(lock)
        return directory
    os.close(directory)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _all(reader: asyncio.StreamReader) -> bytes:
    """Read to the end, or as much as an answer may have."""
    said = bytearray()
    while len(said) < ANSWER_MAX and (more := await reader.read(65536)):
        said += more
    return bytes(said)
