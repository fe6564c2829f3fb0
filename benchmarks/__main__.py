"""`python -m benchmarks [NAME[=SIZE] ...]`: run these benchmarks, or all; exit 1 if one misses its own goal.

SIZE is for those that have one: `inventory_scale=20000` is a quick try.
"""

import importlib
import sys
from pathlib import Path

from benchmarks.report import report

INFRASTRUCTURE = {
    *("__init__", "__main__", "report", "filling", "stream_server"),
    *("library_client", "order_programs", "turns"),
}


def main(wanted: list[str]) -> int:
    """Run them one after the other: they would disturb each other."""
    known = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in INFRASTRUCTURE
    )
    chosen = [argument.partition("=")[::2] for argument in wanted or known]
    unknown = sorted({name for name, _ in chosen} - set(known))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    met = []
    for name, size in chosen:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        met.append(report(name, *(benchmark.run(int(size)) if size else benchmark.run())))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
