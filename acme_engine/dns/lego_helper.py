"""The process around lego's providers: a JSON object a line in, one out. It is run as a file, never imported.

lego is a Go library inside of a Python extension. A call of it holds the interpreter until it is over, and
credentials are variables of the whole process: so this is a process for one set of credentials, that whoever
started it may kill at any time. It dies with that one, reads no environment but what it is sent, and prints
nothing but answers.
"""

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until the input ends."""
    parent = os.getppid()
    if sys.platform == "linux":
        # Input that ends is not noticed during a call.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what lego prints is no answer
    try:
        from lego_bridge import cmd  # noqa: PLC0415 - the first answer says it if that fails
    except ImportError as e:
        answers.write(json.dumps({"success": False, "error": str(e)}) + "\n")
        return
    answers.write(json.dumps({"success": True}) + "\n")
    for line in sys.stdin:
        answers.write(cmd(line) + "\n")


if __name__ == "__main__":
    main()
