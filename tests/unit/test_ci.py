"""`.ci/run`, with a project of a few tests in place of ours: what fails it, and what is run once more."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = """
import pathlib, pytest

@pytest.fixture
def runs(request):
    # How often this test has run, this time included.
    counted = pathlib.Path(request.node.name)
    counted.write_text(counted.read_text() + "." if counted.exists() else ".")
    return len(counted.read_text())

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line("private keys: {keys} found in 3 answers")
"""
GOOD = "def test_good(): pass\n"
ONCE = "def test_once{n}(runs): assert runs > 1\n"
BROKEN = "def test_broken(runs): assert not runs\n"
SKIPPED = "import pytest\ndef test_left_out(): pytest.skip('no')\n"


@pytest.fixture
def ci(tmp_path):
    """Run `.ci/run` on a file of tests; return its code, and all that it printed."""

    def run(tests, *, lint="true", keys=0):
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "conftest.py").write_text(CONFTEST.replace("{keys}", str(keys)))
        (tmp_path / "tests" / "test_it.py").write_text(tests)
        pytest_of_it = f"{sys.executable} -m pytest -p xdist.plugin -ra --numprocesses 1 $(ARGS)"
        (tmp_path / "Makefile").write_text(f"lint:\n\t@{lint}\ntest:\n\t@{pytest_of_it}\n")
        # Nothing of the run that this is itself a test of.
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MAKE"))}
        bare["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        ended = subprocess.run(
            [tmp_path / ".ci" / "run"], cwd="/", env=bare, capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run


def test_all_good_is_run_once(ci):
    code, said = ci(GOOD)

    assert (0, 1) == (code, said.count("1 passed")), said


def test_what_failed_is_run_once_more_alone_and_named(ci):
    code, said = ci(GOOD + ONCE.format(n=""))

    assert 0 == code, said
    assert "1 failed, 1 passed" in said
    assert ".ci/run: passed only when run again, alone" in said.splitlines()[-1]
    assert said.endswith("tests/test_it.py::test_once\n")
    assert "1 worker" in said
    assert "worker" not in said.partition("run once more")[2]


def test_what_fails_twice_fails(ci):
    code, said = ci(GOOD + BROKEN + ONCE.format(n=""))

    assert (1, False) == (code, "passed only when run again" in said), said


def test_more_than_three_are_no_chance(ci):
    code, said = ci("".join(ONCE.format(n=n) for n in range(4)))

    assert (1, False) == (code, "run once more" in said), said


@pytest.mark.parametrize(
    ("tests", "how"),
    [
        (GOOD + SKIPPED, {}),
        (ONCE.format(n="") + SKIPPED, {}),
        (ONCE.format(n=""), {"keys": 1}),
        (GOOD, {"lint": "false"}),
        (ONCE.format(n=""), {"lint": "false"}),
    ],
    ids=["skipped", "skipped-beside-a-failure", "key-beside-a-failure", "lint", "lint-beside-a-failure"],
)
def test_what_no_second_run_mends(ci, tests, how):
    code, said = ci(tests, **how)

    assert 1 == code, said
