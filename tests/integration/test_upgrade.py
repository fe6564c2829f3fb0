"""Two releases beside each other on one schema: the newer one migrates it, and both go on rotating."""

import asyncio

import asyncpg
import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.outage import tell
from tests.support.releases import (
    before_the_newest_migration,
    this_release,
    tomorrows_release,
    yesterdays_release,
)
from tests.support.traffic import Traffic

ROTATIONS_MAX = 30

pytestmark = pytest.mark.timeout(600)


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
        code, said = await self.plane.command("rotate", "www", "--wait", "--timeout", "180s")
        assert 0 == code, said


async def issuers(sql):
    return dict(
        await sql.fetch(
            "SELECT actor, count(*) FROM certaudit WHERE action = 'certificate.issued' GROUP BY 1"
        )
    )


@pytest.mark.parametrize("pair", PAIRS)
async def test_a_rolling_upgrade(pair, ca, bare, tmp_path):
    older_home, newer_home = (make(tmp_path) for make in PAIRS[pair])
    older = Release(tmp_path, older_home, name="older", connect=bare, ca=ca)
    newer = Release(tmp_path, newer_home, name="newer", connect=bare, ca=ca)
    older.plane.settings["http01"]["listen"] = f"{HOST}:{ca.http01_port}"
    sql = await asyncpg.connect(**bare)

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

        # The older one goes, and the newer takes its place: same ports, same Envoys, users notice nothing.
        async with Traffic(f"{HOST}:{older.edge.ports['www']}", "www.example.test") as users:
            await older.plane.stop()
            older.plane.home = newer_home
            await older.plane.start()
            await older.rotate()
            await users.more(10)
        last = {await older.edge.served(), await newer.edge.served()}
        outcomes = await sql.fetch("SELECT DISTINCT outcome FROM certrotation WHERE completed_at IS NOT NULL")
    finally:
        await asyncio.gather(older.stop(), newer.stop())
        await sql.close()

    tell(
        f"upgrade {pair}",
        schema=f"{before} -> {after}",
        rotations=rotations + 3,
        issued_by=shared,
        users=users,
    )
    assert (0, 0) == (users.failed, users.cut), users.errors
    assert before < after
    assert 1 == len(served) == len(last)
    assert served != last
    assert {"completed", "completed_unobserved"} >= {row["outcome"] for row in outcomes}
    assert "loop.crashed" not in older.plane.log() + newer.plane.log()
