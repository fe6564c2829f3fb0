"""The loop of one bundle: what is asked of the control plane, when, and what is said to it."""

import asyncio
import itertools
from datetime import UTC, datetime
from random import Random

import pytest

from sds_server.agent import puller as pullers
from sds_server.agent.delivery import Outcome, Result
from sds_server.agent.pair import Bundle
from sds_server.agent.puller import Puller, retry_s
from sds_server.errors import Conflict, Forbidden, NotFound, Unavailable
from sds_server.model import TargetKind
from tests.support.clocks import HastyClock

START = datetime(2030, 1, 1, tzinfo=UTC)


class Held(Bundle):
    """A bundle, and the pair that is made of it."""

    spki_sha256 = b"0" * 32


def bundle(generation):
    return Held("www", generation, f"v{generation}", f'"v{generation}"', "0" * 64, b"", b"")


class Program:
    """A delivery, and what becomes of each generation there."""

    secret = "www"

    class installer:  # noqa: N801
        kind = TargetKind.NGINX

    def __init__(self):
        self.held = None
        self.unproved = False
        self.outcomes = {}
        self.taken, self.resumed = [], 0

    async def take(self, bundle):
        self.taken.append(bundle.generation)
        result = self.outcomes.get(bundle.generation) or self._proved(bundle.generation)
        if result.outcome is not Outcome.REFUSED or result.kept:
            self.held = bundle
            self.unproved = result.outcome is not Outcome.PROVED
        return result

    async def resume(self):
        self.resumed += 1
        if self.held is None:
            return None
        generation = self.held.generation
        result = self.outcomes.get(generation) or self._proved(generation)
        self.unproved = result.outcome is not Outcome.PROVED
        return result

    def _proved(self, generation):
        return Result(Outcome.PROVED, generation, f"v{generation}", served="0" * 64)


def refused(generation, **more):
    return Result(Outcome.REFUSED, generation, f"v{generation}", "told to", **more)


class Source:
    """A control plane: what is current, who asked for what, what was said."""

    def __init__(self, clock):
        self.clock = clock
        self.current = bundle(1)
        self.asked, self.said = [], []
        self.failures, self.report_failures = [], []
        self.left = 100

    async def bundle(self, secret, *, target, kind, etag, wait_s):
        self.asked.append((etag, wait_s, self.clock.monotonic()))
        self.left -= 1
        if self.left < 0:
            raise asyncio.CancelledError
        if self.failures:
            raise self.failures.pop(0)
        if etag == self.current.etag:
            await self.clock.sleep(wait_s)
            return None
        return self.current

    async def report(self, report):
        if self.report_failures:
            raise self.report_failures.pop(0)
        self.said.append((report.state, report.generation))
        self.said_at = self.clock.monotonic()


@pytest.fixture
def clock():
    return HastyClock(START)


@pytest.fixture
def source(clock):
    return Source(clock)


@pytest.fixture
def program():
    return Program()


@pytest.fixture
def puller(program, source, clock):
    return Puller(
        program,
        source,
        target="web-1",
        address="127.0.0.1:443",
        turn=asyncio.Lock(),
        clock=clock,
        rng=Random(1),
    )


async def run(puller, source, *, steps):
    source.left = steps
    with pytest.raises(asyncio.CancelledError):
        await puller.run()


async def test_a_new_pair_is_brought_in_and_said_once(puller, source, program):
    await run(puller, source, steps=4)

    assert [1] == program.taken
    assert [("proved", 1)] == source.said
    assert [None, '"v1"', '"v1"'] == [etag for etag, *_ in source.asked[:3]]


async def test_what_an_earlier_process_left_is_said(puller, source, program):
    """It may have died before it could."""
    program.held = bundle(1)
    await puller.resume()
    await run(puller, source, steps=2)

    assert [] == program.taken
    assert [("proved", 1)] == source.said


async def test_a_refused_pair_is_not_asked_for_again_at_once_but_less_and_less_often(puller, source, program):
    program.held = bundle(1)
    source.current = bundle(2)
    program.outcomes[2] = refused(2)
    times = []
    take = program.take

    async def timed(offered):
        times.append(source.clock.monotonic())
        return await take(offered)

    program.take = timed
    await run(puller, source, steps=400)
    pauses = [round(b - a) for a, b in itertools.pairwise(times)]

    assert [30, 60, 120, 240] == [30 * round(pause / 30) for pause in pauses[:4]]
    assert max(pauses) <= pullers.LONGEST_RETRY_S + pullers.WAIT_S + 5
    assert [("refused", 2)] == source.said


async def test_what_an_earlier_process_left_and_is_refused_is_not_brought_in_once_more(
    puller, source, program
):
    """Each try has the program load a pair that it was shown to refuse."""
    program.held = bundle(2)
    source.current = bundle(2)
    program.unproved = True
    program.outcomes[2] = refused(2)
    resume = program.resume

    async def resumed():
        result = await resume()
        program.held, program.unproved = bundle(1), False  # what was before lies in its place again
        return result

    program.resume = resumed
    await puller.resume()
    await puller.step()

    assert [] == program.taken
    assert [("refused", 2)] == source.said


async def test_a_newer_pair_ends_the_wait_after_a_refusal(puller, source, program):
    program.held = bundle(1)
    source.current = bundle(2)
    program.outcomes[2] = refused(2)
    await puller.step()
    source.current = bundle(3)
    await puller.step()

    assert [2, 3] == program.taken
    assert [("refused", 2), ("proved", 3)] == source.said


async def test_taken_back_the_one_before_is_said_to_be_proved(puller, source, program):
    program.held = bundle(1)
    source.current = bundle(2)
    program.outcomes[2] = refused(2)
    await puller.step()
    source.current = bundle(1)
    await puller.step()

    assert [("refused", 2), ("proved", 1)] == source.said


async def test_a_first_pair_is_tried_three_times_before_its_refusal_is_said(puller, source, program):
    """What the program misses may be the files of another bundle."""
    program.outcomes[1] = refused(1, kept=True)
    await puller.step()
    said_early = list(source.said)
    while not source.said:
        await puller.step()

    assert [] == said_early
    assert [("refused", 1)] == source.said
    assert 2 == program.resumed
    program.outcomes.clear()
    while len(source.said) < 2:
        await puller.step()
    assert ("proved", 1) == source.said[-1]


async def test_a_program_that_does_not_run_is_looked_for_soon(puller, source, program):
    program.outcomes[1] = Result(Outcome.ACCEPTED, 1, "v1", "nobody")
    await puller.step()
    program.outcomes.clear()
    while ("proved", 1) not in source.said:
        await puller.step()

    assert [("accepted", 1), ("proved", 1)] == source.said
    assert source.said_at <= pullers.WAITING_RETRY_S + 1


async def test_a_program_at_which_nobody_answers_is_not_reloaded_every_quarter_of_a_minute(
    puller, source, program
):
    """It runs, and listens elsewhere: each look tells it to load."""
    program.outcomes[1] = Result(Outcome.ACCEPTED, 1, "v1", "nobody")
    while source.clock.monotonic() < 10 * pullers.WATCH_S:
        await puller.step()
    tries = program.resumed
    program.outcomes.clear()
    while ("proved", 1) not in source.said:
        await puller.step()

    assert pullers.SOON_TRIES < tries < pullers.SOON_TRIES + 5 + 10


async def test_a_program_that_goes_away_again_is_looked_for_as_soon_as_the_first_time(
    puller, source, program
):
    program.outcomes[1] = away = Result(Outcome.ACCEPTED, 1, "v1", "nobody")
    while source.clock.monotonic() < 10 * pullers.WATCH_S:
        await puller.step()
    program.outcomes.clear()
    while ("proved", 1) not in source.said:
        await puller.step()
    program.outcomes[1] = away
    while source.said[-1] != ("accepted", 1):
        await puller.step()
    program.outcomes.clear()
    gone_at = source.clock.monotonic()
    while source.said[-1] != ("proved", 1):
        await puller.step()

    assert source.said_at - gone_at <= pullers.WAITING_RETRY_S + 1


async def test_what_was_proved_is_looked_at_now_and_then(puller, source, program):
    await run(puller, source, steps=40)

    spent = source.clock.monotonic()
    assert spent / pullers.WATCH_S - 1 <= program.resumed <= spent / pullers.WATCH_S + 1
    assert [("proved", 1)] == source.said


async def test_what_is_served_still_is_said_again_each_hour(puller, source, program):
    """The target may have been removed meanwhile, and made anew by what we ask: it would not be proved."""
    await run(puller, source, steps=80)

    hours = source.clock.monotonic() / pullers.SAY_AGAIN_S
    assert hours > 1
    assert [("proved", 1)] * (1 + int(hours)) == source.said


async def test_a_control_plane_that_is_away_is_asked_with_growing_pauses(puller, source, program):
    program.held = bundle(1)
    source.failures = [Unavailable("away")] * 12
    await run(puller, source, steps=13)
    times = [at for *_, at in source.asked]
    pauses = [b - a for a, b in itertools.pairwise(times)]

    assert 0.5 <= pauses[0] <= 1.0
    assert pullers.LONGEST_PAUSE_S / 2 <= pauses[-2] <= pullers.LONGEST_PAUSE_S


async def test_a_report_that_is_lost_is_sent_again(puller, source, program):
    source.report_failures = [Unavailable("lost"), Unavailable("lost")]
    await run(puller, source, steps=4)

    assert [("proved", 1)] == source.said


@pytest.mark.parametrize("error", [Conflict("a newer one is current"), Forbidden("no grant")])
async def test_a_report_that_nobody_wants_holds_nothing_up(puller, source, program, error):
    source.report_failures = [error]
    await puller.step()
    source.current = bundle(2)
    await puller.step()

    assert [1, 2] == program.taken
    assert [("proved", 2)] == source.said


async def test_a_server_that_does_not_wait_is_not_asked_without_a_pause(puller, source, program):
    async def at_once(*_, **__):
        source.asked.append((None, 0, source.clock.monotonic()))
        source.left -= 1
        if source.left < 0:
            raise asyncio.CancelledError

    source.bundle = at_once
    await run(puller, source, steps=5)
    times = [at for *_, at in source.asked]

    assert all(b - a >= 1 for a, b in itertools.pairwise(times))


class Requester:
    """Keeps what it was asked for."""

    def __init__(self, source):
        self._source = source
        self.lost, self.steps, self.error = None, [], None

    async def step(self, served):
        self.steps.append((len(self._source.asked), self.lost))
        if self.error is not None:
            raise self.error


@pytest.fixture
def requester(puller, source):
    puller._requester = Requester(source)
    return puller._requester


async def test_a_request_is_brought_before_a_pair_is_asked_for(puller, source, requester):
    source.failures = [NotFound("nothing is issued yet")]
    with pytest.raises(NotFound):
        await puller.step()
    await puller.step()

    assert [(0, None), (1, None)] == requester.steps


async def test_a_pair_of_a_key_that_is_not_here_is_told_of_at_once_and_then_with_each_request(
    puller, source, program, requester
):
    program.outcomes[1] = refused(1, key_missing=True)
    await puller.step()
    told = list(requester.steps)
    await puller.step()
    source.current = bundle(2)
    await puller.step()
    await puller.step()

    assert [(0, None), (1, 1)] == told
    assert [(1, 1), (2, 1), (3, None)] == requester.steps[2:]
    assert [("refused", 1), ("proved", 2)] == source.said


async def test_where_another_target_has_the_keys_no_pair_is_asked_for(puller, source, requester):
    """Who fetches counts as one that serves it, and this one cannot."""
    requester.error = Conflict("web-2 has its keys")
    with pytest.raises(Conflict):
        await puller.step()

    assert [] == source.asked


def test_the_wait_after_refusals_is_bounded():
    assert [30, 60, 120] == [retry_s(tries, first=False) for tries in (1, 2, 3)]
    assert [1, 2, 120] == [retry_s(tries, first=True) for tries in (1, 2, 3)]
    assert pullers.LONGEST_RETRY_S == retry_s(10_000, first=False)
