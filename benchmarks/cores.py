"""Two cores for a client and the server that it is measured at, so that a cost is the client's work alone.

On one core a server drives its client's code out of the caches while it works. And a core with nothing to do
is halted: in a virtual machine its host has others run there meanwhile, and to go on is dearer by a quarter.
So each has a core of its own, and the client's is kept awake by a process that gives way at once.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sds_server.programs.child import die_with_parent

_AWAKE: Final = """
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while True:
    pass
"""


@contextmanager
def apart() -> Iterator[Callable[[], None]]:
    """Run on the server's core, as it does that is started now; what this gives moves us to the client's."""
    ours = sorted(os.sched_getaffinity(0))
    awake: list[subprocess.Popen[bytes]] = []

    def move() -> None:
        os.sched_setaffinity(0, ours[-1:])
        awake.append(subprocess.Popen([*die_with_parent("KILL"), sys.executable, "-c", _AWAKE]))

    os.sched_setaffinity(0, ours[:1])
    try:
        yield move
    finally:
        for process in awake:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, ours)
