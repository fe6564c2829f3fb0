"""docs/tutorial.md, line by line in one shell: a real CA, certvoy, Envoy, and what goes wrong."""

import sys
from pathlib import Path

import pytest

from sds_server.programs.child import free_port
from tests.support.pages import DOCS, Shell, declared, steps

PAGE = DOCS / "tutorial.md"
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def shell(tmp_path):
    directory = tmp_path / "tutorial"
    directory.mkdir()
    shell = Shell(directory, path=[PROGRAMS])
    yield shell
    shell.end()


@pytest.mark.timeout(600)
def test_the_tutorial_shows_what_happens(shell):
    install, variables, *rest = steps(PAGE.read_text())
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("HTTP01", "SDS", "API", "WEB")}

    assert "pip install '.[demo]'" in install.commands  # test_wheel installs it
    shell.run(declared(variables.commands, {"CA": f"localhost:{free_port()}", **ports}))
    for step in rest:
        shell.follow(step)
