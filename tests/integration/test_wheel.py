"""The wheel holds all that an installed certvoy needs besides Python, and runs where nothing else is."""

import email
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.installed import bare, uv

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--quiet", "--out-dir", directory)
    (path,) = directory.glob("*.whl")
    return path


def read(wheel, ending):
    """The one file of the wheel whose name ends so."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(ending)]
        return archive.read(name).decode()


def test_the_wheel_holds_the_schema_the_migrations_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    migrations = {f"sds_server/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    needed = {"sds_server/schema.sql", "sds_server/inventory/queries.sql", "acme_engine/__init__.py"}
    typed = {"sds_server/py.typed", "acme_engine/py.typed"}
    assert needed | migrations | typed <= names
    assert "certvoy = sds_server.__main__:main" in read(wheel, "entry_points.txt")
    assert {"sds_server", "acme_engine"} == {
        name.split("/")[0] for name in names if ".dist-info/" not in name
    }


def test_the_metadata_say_what_a_package_index_shows(wheel):
    metadata = email.message_from_string(read(wheel, ".dist-info/METADATA"))

    assert "Apache-2.0" == metadata["License-Expression"]
    assert ["LICENSE"] == metadata.get_all("License-File")
    assert "text/markdown" == metadata["Description-Content-Type"]
    assert (ROOT / "README.md").read_text() in metadata.get_payload()
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert (ROOT / "LICENSE").read_text() == read(wheel, "licenses/LICENSE")


@pytest.mark.timeout(300)
def test_the_demo_runs_from_the_wheel_and_its_extra_alone(wheel, tmp_path):
    """In an empty directory, with an empty home, by the lock file's versions."""
    environment = tmp_path / "venv"
    # By the lock file, whose URLs are all that a cache needs: by name, uv would ask an index.
    uv(
        *("sync", "--locked", "--no-dev", "--extra", "demo", "--no-install-project"),
        environment={"UV_PROJECT_ENVIRONMENT": str(environment)},
    )
    uv("pip", "install", "--quiet", "--python", environment, "--no-deps", wheel)
    here = tmp_path / "empty"
    here.mkdir()
    run = subprocess.run(
        [environment / "bin" / "certvoy", "demo", "--once", "--json"],
        cwd=here,
        env=bare(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "proved" in run.stdout
    assert [] == list(here.iterdir())
    assert json.loads(run.stdout.splitlines()[0])
