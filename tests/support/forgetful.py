"""`python -m tests.support.forgetful serve ...`: certvoy that forgets at once what nobody watches any more.

It waits ten minutes otherwise. Where the tests are not root's, its memory can be read by who started it.
"""

import ctypes
import os
import sys
from datetime import timedelta

from sds_server import memory


def main() -> int:
    """Run the command with another idea of time."""
    memory.scrub_on_free()
    from sds_server import parts  # takes seconds, which the line above would take twice
    from sds_server.cli.main import main as certvoy
    from sds_server.lifecycle import publisher

    publisher.FORGET_AFTER = timedelta(0)
    parts.SWEEP = timedelta(milliseconds=200)
    if os.geteuid() != 0:
        guard = memory.guard

        def readable() -> memory.Scrub:
            scrub = guard()
            ctypes.CDLL(None).prctl(memory.PR_SET_DUMPABLE, 1, 0, 0, 0)
            return scrub

        memory.guard = readable
    return certvoy()


if __name__ == "__main__":
    sys.exit(main())
