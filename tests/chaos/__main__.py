"""`python -m tests.chaos`: rotations under faults, drawn from a seed; exit 1 if a promise was broken.

--rotations N    so many (100)
--seconds N      for so long, and with random kills besides: what `make soak` does
--seed N         the same faults again (by default another one each time; it is printed)
--forms N        so many rotations in each form in which Envoy can ask (100)
--memory 0       without the look for a thousand keys that were served, in memory and everywhere else
--json FILE      the figures, for machines
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from random import SystemRandom

from sds_server.crashpoint import POINTS
from tests.chaos.campaign import run
from tests.chaos.forms import rotate_each
from tests.chaos.kills import kill
from tests.chaos.left_over import none_is_left
from tests.chaos.race import races


def main() -> int:
    """Run it and tell what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rotations", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    parser.add_argument("--kills", type=int)
    parser.add_argument("--races", type=int)
    parser.add_argument("--forms", type=int)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    soak = options.seconds is not None
    rotations = options.rotations if options.rotations is not None or soak else 100
    print(f"seed {options.seed}", flush=True)
    figures = asyncio.run(
        run(seed=options.seed, rotations=rotations, seconds=options.seconds, kills=soak, say=True)
    )
    kills = (0 if soak else 20) if options.kills is None else options.kills
    racing = (0 if soak else 5) if options.races is None else options.races
    if kills:
        figures.violations += asyncio.run(kill(kills))
    if racing:
        figures.violations += asyncio.run(races(racing))
    forms = (0 if soak else 100) if options.forms is None else options.forms
    formed = rotate_each(forms) if forms else True
    looking = not soak if options.memory is None else options.memory
    clean = none_is_left() if looking else True
    told = figures.as_json() | {"killed_at_points": len(POINTS) * kills, "races": racing}
    told |= {"rotations_in_each_form": forms}
    for name, value in told.items():
        print(f"{name.replace('_', ' '):24} {value}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if figures.violations or not formed or not clean else 0


if __name__ == "__main__":
    sys.exit(main())
