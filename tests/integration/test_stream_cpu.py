"""The benchmark of a stream's CPU in short: its goals, with room for a machine that is busy otherwise."""

import pytest

from benchmarks import stream_cpu

STREAMS = 60
ROOM = 4.0
"""CPU time, not time: caches and a shared core make it dearer, but not by more."""

BARE_MAX = 10.0
"""So many times what gRPC costs alone: in a quiet run it is two and a half."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def measured():
    figures, goals = stream_cpu.run(STREAMS)
    print(figures)
    return figures, goals


@pytest.mark.parametrize("what", ["open, ms of CPU", "push, us of CPU"])
def test_a_stream_costs_little_cpu(measured, what):
    figures, goals = measured
    _, most = goals[what]

    assert 0 < figures[what] < ROOM * most


@pytest.mark.parametrize("what", ["open / bare", "push / bare"])
def test_it_costs_some_times_what_grpc_costs_alone(measured, what):
    figures, _ = measured

    assert 0 < figures[what] < BARE_MAX
