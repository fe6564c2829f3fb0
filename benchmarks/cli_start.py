"""How long `certvoy --help` takes, as a whole process; the ratio is to a bare interpreter in the same run."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.report import Figures, Goals

RUNS: Final = 21

GOALS: Final[Goals] = {"certvoy --help, median ms": ("<", 200.0)}


def run() -> tuple[Figures, Goals]:
    """Run it and return figures and goals."""
    bare: list[float] = []
    overview: list[float] = []
    for _ in range(RUNS):  # in turns: what else the machine does hits both
        bare.append(_ms([sys.executable, "-c", "pass"]))
        overview.append(_ms([sys.executable, "-m", "sds_server", "--help"]))
    figures = {
        "certvoy --help, median ms": statistics.median(overview),
        "certvoy --help, max ms": max(overview),
        "python -c pass, median ms": statistics.median(bare),
        "ratio of the medians": statistics.median(overview) / statistics.median(bare),
    }
    return figures, GOALS


def _ms(argv: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000
