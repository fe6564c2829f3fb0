"""The points are those of the table, and cost nothing where none is asked for."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sds_server import crashpoint
from sds_server.crashpoint import AGENT_POINTS, KEY_POINTS, POINTS

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "acme_engine" / "issue.py"


def called(path, *names):
    """The literals that functions of these names are called with first, and what else is given them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            if name in names:
                yield getattr(node.args[0], "value", None)


def test_every_point_of_the_code_has_its_line_in_the_table_and_every_line_a_point():
    """The engine's steps are points as well: the worker is told of each."""
    code = [name for path in (ROOT / "sds_server").rglob("*.py") for name in called(path, "crashpoint")]
    steps = set(called(ENGINE, "_on_step"))
    ours = [name for name in code if name is not None]

    assert sorted(set(ours)) == sorted(ours), "a point stands in one place"
    assert set(ours) | (set(POINTS) & steps) == set(POINTS) | set(AGENT_POINTS) | set(KEY_POINTS)
    assert 1 == code.count(None), "only the worker passes the engine's steps on"


def test_there_are_thirty_points_and_more():
    assert len(POINTS) >= 30


@pytest.mark.skipif("CERTVOY_CRASHPOINT" in os.environ, reason="armed")
def test_unarmed_it_is_a_function_that_does_nothing():
    assert crashpoint._nothing is crashpoint.crashpoint


@pytest.mark.parametrize(
    ("armed", "signalled", "code"),
    [
        ("order.saved", "SIGKILL", -signal.SIGKILL),
        ("order.saved:2", "SIGTERM", -signal.SIGTERM),
        ("order.saved:3", "SIGKILL", 0),
        ("order.planned", "SIGKILL", 0),
    ],
)
def test_armed_it_dies_at_that_visit_of_that_point(armed, signalled, code):
    twice = "from sds_server.crashpoint import crashpoint as c; c('order.saved'); c('order.saved')"
    env = {**os.environ, "CERTVOY_CRASHPOINT": armed, "CERTVOY_CRASHPOINT_SIGNAL": signalled}
    run = subprocess.run([sys.executable, "-c", twice], env=env, cwd=ROOT, check=False)

    assert code == run.returncode
