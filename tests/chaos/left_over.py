"""A thousand keys served, and none left anywhere: the long form of what `make test` does with a hundred."""

import os
import subprocess
import sys

TEST = "tests/integration/test_memory.py"


def none_is_left() -> bool:
    """Look; False: a key was found, or the look does not find what is there."""
    argv = [sys.executable, "-m", "pytest", "-q", "-s", TEST]
    return subprocess.run(argv, env={**os.environ, "CERTVOY_LONG": "1"}, check=False).returncode == 0
