"""Two releases beside each other on one schema: the newer one migrates it, and both go on rotating."""

import asyncio
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import asyncpg
import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.outage import tell

ROOT = Path(__file__).parents[2]
PARTS = ("sds_server", "acme_engine", "migrations", "schema.sql")

TOMORROW = """
-- What an additive migration may be: a table, a column with a default, one without, an index.
CREATE TABLE tomorrow (id bigserial PRIMARY KEY, secret text NOT NULL REFERENCES secret);
ALTER TABLE certrotation ADD COLUMN tomorrow boolean NOT NULL DEFAULT false;
ALTER TABLE certificate ADD COLUMN tomorrow text;
ALTER TABLE delivery ADD COLUMN tomorrow integer NOT NULL DEFAULT 0;
CREATE INDEX certificate_tomorrow ON certificate (tomorrow);
"""

ROTATIONS_MAX = 30

pytestmark = pytest.mark.timeout(240)


def git(*arguments: str) -> bytes | None:
    try:
        run = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return run.stdout if run.returncode == 0 else None


def migrations(commit: str) -> set[tuple[str, str]]:
    """The migrations of a commit: name and content's hash."""
    listed = git("ls-tree", "-r", commit, "--", "migrations/") or b""
    fields = (line.split() for line in listed.decode().splitlines())
    return {(Path(name).name, blob) for _, _, blob, name in fields}


def before_the_newest_migration() -> str | None:
    """The newest commit with fewer migrations, each as it is today; None where history has none."""
    todays = {
        (path.name, (git("hash-object", str(path)) or b"").decode().strip())
        for path in (ROOT / "migrations").glob("*.sql")
    }
    for commit in (git("log", "--format=%H", "--", "migrations") or b"").decode().split():
        for candidate in (commit, f"{commit}^"):
            if migrations(candidate) and migrations(candidate) < todays:
                return candidate
    return None


def this_release(_directory: Path) -> Path:
    return ROOT


def tomorrows_release(directory: Path) -> Path:
    """This one, with one more migration."""
    home = directory / "tomorrow"
    home.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, home / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, home / part)
    (home / "migrations" / "9999_tomorrow.sql").write_text(TOMORROW)
    return home


def yesterdays_release(directory: Path) -> Path:
    """What was before the newest migration."""
    home = directory / "yesterday"
    commit = before_the_newest_migration()
    assert commit is not None
    archive = git("archive", commit, *PARTS)
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(home, filter="data")
    return home


PAIRS = {"today-tomorrow": (this_release, tomorrows_release)}
# A clone without history has no yesterday; the pair above stands for it.
if before_the_newest_migration() is not None:
    PAIRS["yesterday-today"] = (yesterdays_release, this_release)


@pytest.fixture
async def ca(tmp_path):
    http01_port = free_port()
    (tmp_path / "caddy").mkdir()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{http01_port}")
    caddy.http01_port = http01_port
    yield caddy
    await caddy.stop()


class Release:
    """A replica of one release, and an Envoy of its own."""

    def __init__(self, directory, home, *, name, connect, ca):
        directory = directory / name
        directory.mkdir()
        self.plane = ControlPlane(directory, database=dsn(connect))
        self.plane.issuer(ca.directory_url, ca.ca_file)
        self.plane.home = home
        self.plane.settings |= {
            "replica": name,
            "kms": {"key_file": str(directory.parent / "kek")},
            "grants": grants("www"),
        }
        self.edge = Edge(directory, self.plane, name=f"edge-{name}")

    async def start(self):
        await self.plane.start()
        await self.edge.start()
        await until(self.edge.served)
        port = self.edge.ports["www"]
        code, said = await self.plane.command(
            "targets", "add", self.edge.name, "--probe", f"{HOST}:{port}", "--secret", "www"
        )
        assert 0 == code, said

    async def stop(self):
        await self.edge.stop()
        if self.plane.child is not None:
            await self.plane.stop()

    async def rotate(self):
        """By its own command; proved at every Envoy, of the other release too."""
        code, said = await self.plane.command("rotate", "www", "--wait", "--timeout", "60s")
        assert 0 == code, said


async def issuers(sql):
    return dict(
        await sql.fetch(
            "SELECT actor, count(*) FROM certaudit WHERE action = 'certificate.issued' GROUP BY 1"
        )
    )


@pytest.mark.parametrize("pair", PAIRS)
async def test_a_rolling_upgrade(pair, ca, connect, tmp_path):
    older_home, newer_home = (make(tmp_path) for make in PAIRS[pair])
    older = Release(tmp_path, older_home, name="older", connect=connect, ca=ca)
    newer = Release(tmp_path, newer_home, name="newer", connect=connect, ca=ca)
    older.plane.settings["http01"]["listen"] = f"{HOST}:{ca.http01_port}"
    sql = await asyncpg.connect(**connect)

    async def over():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NULL") == 0

    try:
        await older.start()
        await until(over)  # the first is issued at the start
        await older.rotate()
        before = await sql.fetchval("SELECT max(version) FROM schema_migration")
        await newer.start()
        after = await sql.fetchval("SELECT max(version) FROM schema_migration")
        rotations = 0
        while len(await issuers(sql)) < 2 or rotations < 4:
            await (older, newer)[rotations % 2].rotate()
            rotations += 1
            assert rotations < ROTATIONS_MAX
        shared = await issuers(sql)
        served = {await older.edge.served(), await newer.edge.served()}

        # The older one goes, and the newer takes its place: same ports, same Envoys.
        await older.plane.stop()
        older.plane.home = newer_home
        await older.plane.start()
        await older.rotate()
        last = {await older.edge.served(), await newer.edge.served()}
        outcomes = await sql.fetch("SELECT DISTINCT outcome FROM certrotation WHERE completed_at IS NOT NULL")
    finally:
        await asyncio.gather(older.stop(), newer.stop())
        await sql.close()

    tell(f"upgrade {pair}", schema=f"{before} -> {after}", rotations=rotations + 3, issued_by=shared)
    assert before < after
    assert 1 == len(served) == len(last)
    assert served != last
    assert {"completed", "completed_unobserved"} >= {row["outcome"] for row in outcomes}
    assert "loop.crashed" not in older.plane.log() + newer.plane.log()
