"""The master process of a program, told by a signal."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

from sds_server.agent.installers.installer import NotRunning, Rejected

LISTENS_S: Final = 10.0
"""HAProxy's master ignores what it is told while it loads, which includes the reload before this one."""

POLL_S: Final = 0.02
LOOKS: Final = 50
"""At an empty command line: a program that executes itself anew has none for a moment, the dead for ever."""


async def tell(pid_file: Path, sig: signal.Signals, *, program: str) -> None:
    """Signal the process of that number, if it is one of the program's: numbers are used again.

    Raises:
        NotRunning: there is none.
        Rejected: it cannot be told.
    """
    pid = await _find(pid_file, program)
    try:
        async with asyncio.timeout(LISTENS_S):
            while not _listens(pid, sig):
                await asyncio.sleep(POLL_S)
        os.kill(pid, sig)
    except TimeoutError:
        raise Rejected(f"{program} (pid {pid}) takes no {sig.name}: is it the master?") from None
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(f"{pid_file}: process {pid} is gone") from None
    except PermissionError as e:
        raise Rejected(
            f"the agent may not send {program} (pid {pid}) a signal: run it as {program}'s user"
        ) from e


async def _find(pid_file: Path, program: str) -> int:
    try:
        pid, title = _named(pid_file)
        for _ in range(LOOKS):
            if title:
                break
            await asyncio.sleep(POLL_S)
            pid, title = _named(pid_file)
    except (FileNotFoundError, ValueError):
        raise NotRunning(f"{pid_file} names no process") from None
    except OSError as e:
        raise Rejected(f"cannot read {pid_file}: {e.strerror}") from e
    if program.encode() not in title:
        raise NotRunning(f"{pid_file}: process {pid} is no {program}")
    return pid


def _named(pid_file: Path) -> tuple[int, bytes]:
    """Return the number in the file, and the command line of that process."""
    pid = int(pid_file.read_text())
    return pid, Path(f"/proc/{pid}/cmdline").read_bytes()


def _listens(pid: int, sig: signal.Signals) -> bool:
    """Whether a handler is there now: proc(5), the mask of signals that are caught."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (sig - 1) & 1)
    return True
