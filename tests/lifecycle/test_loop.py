"""The loop: a failure ends nothing, is tried again later and later, and a wake is heard at once."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from sds_server.errors import Unavailable
from sds_server.lifecycle import loop as loops
from sds_server.lifecycle.loop import LONGEST_PAUSE, Loop

POLL = timedelta(milliseconds=250)
NEVER = timedelta(days=1)


class Steps:
    """A step that does what it is told, one result after the other, and stops the loop after the last."""

    def __init__(self, *results):
        self.results = list(results)
        self.taken = 0
        self.done = asyncio.Event()

    async def __call__(self):
        self.taken += 1
        result = self.results.pop(0) if self.results else None
        if not self.results:
            self.done.set()
        if isinstance(result, BaseException):
            raise result


@pytest.fixture
def pauses(monkeypatch):
    """The pauses after failures; none is waited for."""
    slept = []
    real = asyncio.sleep

    async def sleep(seconds):
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(loops.asyncio, "sleep", sleep)
    return slept


async def run_until_done(loop, steps):
    task = asyncio.create_task(loop.run())
    await steps.done.wait()
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize("failure", [Unavailable("database: gone"), RuntimeError("a bug")])
async def test_a_failure_does_not_end_it(pauses, failure):
    steps = Steps(failure, failure, None)
    await run_until_done(Loop("worker", steps, every=NEVER), steps)

    assert 3 == steps.taken


async def test_a_bug_is_logged_with_its_traceback_and_an_outage_without(pauses):
    steps = Steps(Unavailable("database: gone"), RuntimeError("a bug"), None)
    with capture_logs() as logs:
        await run_until_done(Loop("worker", steps, every=NEVER), steps)

    assert [("loop.failed", 1), ("loop.failed", 2)] == [
        (log["event"], log["failures"]) for log in logs if log["event"] == "loop.failed"
    ]
    assert 1 == [log["event"] for log in logs].count("loop.crashed")


async def test_what_fails_on_and_on_is_told_less_and_less_often_and_another_reason_at_once(
    pauses, monkeypatch
):
    monkeypatch.setattr(loops, "TOLD_EVERY", 16)
    gone, away = Unavailable("database: gone"), Unavailable("kms: away")
    steps = Steps(*[gone] * 33, away, *[RuntimeError("a bug")] * 16)
    with capture_logs() as logs:
        await run_until_done(Loop("worker", steps, every=NEVER), steps)
    told = [log["failures"] for log in logs if log["event"] == "loop.failed"]

    assert [1, 2, 4, 8, 16, 32, 34, 35, 48] == told
    assert 2 == [log["event"] for log in logs].count("loop.crashed")


async def test_pauses_double_up_to_a_bound(pauses):
    steps = Steps(*[Unavailable("database: gone")] * 7)
    await run_until_done(Loop("worker", steps, every=POLL), steps)

    assert [0.5, 1.0, 2.0, 3.0, 3.0, 3.0] == pauses[:6]
    assert LONGEST_PAUSE.total_seconds() == max(pauses)


async def test_it_says_when_it_has_recovered_and_counts_anew(pauses):
    down = Unavailable("database: gone")
    steps = Steps(down, down, None, down)
    loop = Loop("worker", steps, every=timedelta(microseconds=1))
    with capture_logs() as logs:
        await run_until_done(loop, steps)

    assert [2] == [log["failures"] for log in logs if log["event"] == "loop.recovered"]
    assert 1 == loop.failures


async def test_a_wake_takes_the_next_step_at_once():
    steps = Steps(None, None)
    loop = Loop("worker", steps, every=NEVER)
    task = asyncio.create_task(loop.run())
    while not steps.taken:
        await asyncio.sleep(0)
    loop.wake()
    await steps.done.wait()
    task.cancel()

    assert 2 == steps.taken


async def test_a_wake_during_a_step_is_not_lost():
    steps = Steps(None, None)

    async def step():
        if not steps.taken:
            loop.wake()
        await steps()

    loop = Loop("worker", step, every=NEVER)
    task = asyncio.create_task(loop.run())
    await steps.done.wait()
    task.cancel()

    assert 2 == steps.taken


async def test_cancelling_ends_it_within_a_step():
    started = asyncio.Event()

    async def step():
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Loop("worker", step, every=NEVER).run())
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
