"""The benchmark of a stream's CPU in short: it runs whole, and costs some times what gRPC alone does.

How many milliseconds that is says `make bench ARGS=stream_cpu`, on a machine that does nothing else.
"""

import pytest

from benchmarks import stream_cpu

STREAMS = 60
BARE_MAX = 10.0
"""So many times what gRPC costs alone: in a quiet run it is two and a half."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def measured():
    figures, goals = stream_cpu.run(STREAMS)
    print(figures)
    return figures, goals


@pytest.mark.parametrize("what", ["open / bare", "push / bare"])
def test_it_costs_some_times_what_grpc_costs_alone(measured, what):
    figures, _ = measured

    assert 0 < figures[what] < BARE_MAX


def test_each_goal_is_of_a_figure(measured):
    figures, goals = measured

    assert goals.keys() <= figures.keys()
