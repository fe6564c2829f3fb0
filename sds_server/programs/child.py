"""A real program as our own child: it dies with us, and answers before it counts as started."""

import asyncio
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sds_server.errors import Unavailable

READY_POLL_S = 0.01
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 15
PORTS_FROM = 10_000
PORT_TRIES = 100
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SYSTEM = random.SystemRandom()


def die_with_parent(sig: str = "TERM") -> list[str]:
    """Return the argument prefix that makes the kernel signal the child when its parent dies.

    A prefix and not ``preexec_fn``, which crashes now and then in a process with gRPC threads. The signal
    follows the thread that forked: start children from the main thread. Empty where util-linux is missing
    (macOS).
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", sig] if setpriv else []


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on now, another one each time.

    One below the range from which the kernel takes ports for outgoing connections: of those it could hand
    out this very port to somebody else before our program listens on it. Processes that start programs at the
    same time share the rest by ``CERTVOY_PORTS`` (``10000-14999``): Envoy listens without a word on a port
    that another Envoy has.
    """
    candidates = _candidates()
    for _ in range(PORT_TRIES):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, next(candidates)))
            except OSError:  # somebody has it
                continue
            port: int = probe.getsockname()[1]
            return port
    raise Unavailable(f"no free TCP port on {host}", hint="end what listens there")


@functools.cache
def _candidates() -> Iterator[int]:
    """Return this process's ports for ever, in an order of its own; none comes again before all others."""
    first, _, last = os.environ.get("CERTVOY_PORTS", "").partition("-")
    ports = list(range(int(first), int(last) + 1) if last else range(PORTS_FROM, ephemeral_from()))
    _SYSTEM.shuffle(ports)
    return itertools.cycle(ports)


def ephemeral_from() -> int:
    """Return the first of the kernel's own ports; Linux's default where it does not say."""
    try:
        return max(int(PORT_RANGE.read_text().split()[0]), PORTS_FROM + 1000)
    except (OSError, ValueError, IndexError):
        return 32768


class Child:
    """A running program; output goes to ``log``, which is never a pipe that could fill."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        stop_signal: signal.Signals = signal.SIGTERM,
        pdeathsig: str = "TERM",
        launcher: Sequence[str] = (),
    ) -> None:
        """Start it; ``env`` is added to ours, ``launcher`` stands before all (``unshare ...``)."""
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        command = [*launcher, *die_with_parent(pdeathsig), *map(str, argv)]
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    cwd=cwd,
                )
        except OSError as e:
            raise Unavailable(f"{name}: cannot start {command[0]}: {e.strerror}") from e

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    async def ready(self, answers: Callable[[], Awaitable[bool]], *, timeout_s: float = 60.0) -> None:
        """Wait until ``answers`` says True; an OSError from it means "not yet".

        Raises:
            Unavailable: it ended, or gave no answer in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.running:
                code = self._process.returncode
                raise Unavailable(f"{self.name} ended with code {code} while starting:\n{self.log_tail()}")
            try:
                if await answers():
                    return
            except (OSError, EOFError):
                pass
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} did not answer within {timeout_s:g} s:\n{self.log_tail()}")
            await asyncio.sleep(READY_POLL_S)

    def send_signal(self, sig: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self.running:
            self._process.send_signal(sig)

    def kill(self) -> None:
        """End it at once and reap it."""
        self.send_signal(signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)

    async def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask it to stop, kill it if it does not, and return its exit code."""
        self.send_signal(self._stop_signal)
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(READY_POLL_S)
        if self.running:
            self.kill()
        return self._process.wait(STOP_TIMEOUT_S)

    async def wait(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        while self.running:
            await asyncio.sleep(READY_POLL_S * 5)
        return self._process.returncode

    def log_tail(self) -> str:
        """Return the last lines it printed."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-LOG_TAIL_LINES:])
