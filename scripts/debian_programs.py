"""Unpack the programs that tests want of Debian into a cache; where that fails, say why and go on.

Never an error: the tests that miss a program are skipped, listed and counted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import debian


def main() -> None:
    """Unpack every set; quick where it is there already."""
    for name in debian.PACKAGES:
        try:
            print(f"{name}: {debian.unpack(name)}")
        except debian.Unavailable as e:
            print(f"{e}\n  its tests will be skipped")


if __name__ == "__main__":
    main()
