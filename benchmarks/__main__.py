"""`python -m benchmarks [NAME ...]`: run these benchmarks, or all; exit 1 if one misses a goal of its own."""

import importlib
import sys
from pathlib import Path

from benchmarks.report import report

INFRASTRUCTURE = {"__init__", "__main__", "report"}


def main(wanted: list[str]) -> int:
    """Run them one after the other: they would disturb each other."""
    known = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in INFRASTRUCTURE
    )
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    met = [report(name, *importlib.import_module(f"benchmarks.{name}").run()) for name in wanted or known]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
