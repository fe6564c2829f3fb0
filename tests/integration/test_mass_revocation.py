"""All that a CA has issued, replaced under its limits: a drill of fifty at Pebble."""

import time

import pytest

from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.outage import tell
from tests.support.pebble import Pebble

pytestmark = [pytest.mark.debian, pytest.mark.timeout(240)]

CERTIFICATES = 50


@pytest.fixture
async def pebble(tmp_path):
    running = Pebble(tmp_path, kind=True)
    await running.ready()
    yield running
    await running.stop()


@pytest.fixture
async def plane(pebble, connect, sql, tmp_path):
    """Serving fifty certificates; newOrder comes one after the other, or Pebble deadlocks."""
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    plane.issuer(pebble.directory_url, pebble.ca_file, terms_agreed=True, in_flight=1)
    plane.settings["secrets"] = {
        f"www{n}": {"domains": [f"www{n}.shop{n}.test"], "issuer": "internal"} for n in range(CERTIFICATES)
    }

    async def completed():
        return await sql.fetchval("SELECT count(*) FROM certificate WHERE status = 'active'") == CERTIFICATES

    await plane.start()
    try:
        await until(completed, timeout_s=90)
        yield plane
    finally:
        await plane.stop()


async def test_a_drill_replaces_all_of_it_and_revokes_nothing(plane, sql):
    began = time.monotonic()
    code, printed = await plane.command(
        "revoke", "--all", "--issuer", "internal", "--dry-run", "--wait", "--timeout", "90s"
    )
    took_s = time.monotonic() - began
    generations = await sql.fetch(
        "SELECT generation, status, count(*) FROM certificate GROUP BY 1, 2 ORDER BY 1, 2"
    )

    tell("a drill of a mass revocation", certificates=CERTIFICATES, seconds=f"{took_s:.1f}")
    assert 0 == code, printed
    assert f"internal: {CERTIFICATES} of {CERTIFICATES} replaced" in printed
    assert "to be issued, the last at 20" in printed
    assert [(1, "replaced", CERTIFICATES), (2, "active", CERTIFICATES)] == [tuple(row) for row in generations]
    assert 0 == await sql.fetchval("SELECT count(*) FROM revocation")
