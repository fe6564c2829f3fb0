"""The wheel holds all that an installed certvoy needs besides Python."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_schema_the_migrations_and_the_command(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entry_points).decode()

    migrations = {f"sds_server/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    needed = {"sds_server/schema.sql", "sds_server/inventory/queries.sql", "acme_engine/__init__.py"}
    assert needed | migrations <= names
    assert "certvoy = sds_server.__main__:main" in commands
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
