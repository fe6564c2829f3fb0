"""Certvoy installed as a user has it, in an environment with nothing else; by uv, without the network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def uv(*arguments: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> None:
    """Run the uv that runs the tests, on what it has downloaded for them."""
    program = os.environ.get("UV") or shutil.which("uv")
    if program is None:
        pytest.skip("uv is not here: run the tests by make test")
    env = {**os.environ, "UV_OFFLINE": "1", "UV_PYTHON": sys.executable, **(environment or {})}
    env.pop("VIRTUAL_ENV", None)
    run = subprocess.run([program, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"uv {' '.join(map(str, arguments))}:\n{run.stderr}"


def bare(directory: Path) -> dict[str, str]:
    """An environment in which nothing of the tests' own can be found."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    return {"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C.UTF-8"}
