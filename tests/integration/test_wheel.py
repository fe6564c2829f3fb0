"""The wheel holds all that an installed certvoy needs besides Python, and runs where nothing else is."""

import asyncio
import email
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from acme_engine import chain, keys
from tests.support import pages, pebble
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


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """The Python of an environment that has acme_engine of the wheel, and of certvoy nothing else."""
    environment = tmp_path_factory.mktemp("alone") / "venv"
    uv(
        *("sync", "--locked", "--no-dev", "--no-install-project"),
        environment={"UV_PROJECT_ENVIRONMENT": str(environment)},
    )
    uv("pip", "install", "--quiet", "--python", environment, "--no-deps", wheel)
    (package,) = environment.glob("lib/python*/site-packages/sds_server")
    shutil.rmtree(package)
    return environment / "bin" / "python"


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    running = pebble.start(tmp_path_factory.mktemp("pebble"), kind=True)
    yield running
    asyncio.run(running.stop())


def run_alone(python, program, *arguments, here, ca):
    """In a directory with nothing of ours; the system's roots are the CA's."""
    environment = bare(here) | {"SSL_CERT_FILE": str(ca.ca_file), "PORT": str(ca.http_port)}
    run = subprocess.run(
        [python, program, *arguments],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.debian
@pytest.mark.timeout(600)
def test_a_stranger_has_a_certificate_by_the_ten_lines_of_the_engine_s_readme(alone, ca, tmp_path):
    (block,) = pages.blocks((ROOT / "acme_engine" / "README.md").read_text(), "python")
    program = tmp_path / "stranger.py"
    url = "https://acme-v02.api.letsencrypt.org/directory"
    assert url in block
    program.write_text(block.replace(url, ca.directory_url).replace("port=80", f"port={ca.http_port}"))
    printed = run_alone(alone, program, here=tmp_path, ca=ca)

    pem, key = printed.split("-----BEGIN PRIVATE KEY-----")
    got = chain.parse(pem.encode())
    made = keys.load_pem(f"-----BEGIN PRIVATE KEY-----{key}".encode())
    assert ("www.example.com",) == got.names
    assert keys.spki_sha256(made.public_key()) == got.spki_sha256


@pytest.mark.debian
@pytest.mark.timeout(600)
def test_the_example_keeps_a_certificate_and_renews_it_only_when_it_is_due(alone, ca, tmp_path):
    kept = tmp_path / "certs"
    kept.mkdir()
    program, name = ROOT / "examples" / "http01.py", "kept.example.com"

    def run():
        return run_alone(alone, program, ca.directory_url, str(kept), name, here=tmp_path, ca=ca)

    first, second = run(), run()
    pem = (kept / f"{name}.pem").read_bytes()

    assert f"{name}.pem: until " in first
    assert "third-left" in second
    assert {"account.pem", f"{name}.key", f"{name}.pem"} == {path.name for path in kept.iterdir()}
    assert 0o600 == (kept / f"{name}.key").stat().st_mode & 0o777
    made = keys.load_pem((kept / f"{name}.key").read_bytes())
    assert keys.spki_sha256(made.public_key()) == chain.parse(pem).spki_sha256
    assert pem == (kept / f"{name}.pem").read_bytes()


@pytest.mark.timeout(600)
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
