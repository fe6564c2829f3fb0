"""What a loop's turns say about its timers."""

import asyncio
import time
from functools import partial

import pytest

from benchmarks.turns import Turns, late_s


@pytest.mark.parametrize(
    ("turns", "elapsed", "late"),
    [
        ([], 1.0, 0.0),
        ([0.005], 0.02, 0.0048),  # in its first 0.2 ms, which is 1 % of 20 ms, a timer is 4.8 ms late or more
        ([0.005, 0.005], 0.02, 0.0049),
        ([0.005, 0.001, 0.001], 0.7, 0.0),  # less than 1 % of all is in turns
        ([0.004, 0.002], 0.3, 0.0015),
    ],
)
def test_a_timer_is_as_late_as_the_turn_that_it_falls_into_is_long(turns, elapsed, late):
    assert late == pytest.approx(late_s(turns, elapsed))


def test_what_blocks_the_loop_is_seen():
    turns = Turns()

    async def block():
        turns.begin()
        await asyncio.sleep(0)
        time.sleep(0.05)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, turns)) as runner:
        runner.run(block())

    late, of_cpu = turns.late_s()
    assert late > 0.04
    assert of_cpu < late
