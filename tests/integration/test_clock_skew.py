"""A CA whose Date is not ours: the log, the readiness and the metrics say so, and issuance goes on."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest

from sds_server.programs.child import free_port
from tests.support.ca_front import CaFront
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.pebble import Pebble

pytestmark = pytest.mark.debian

BEHIND = timedelta(minutes=10)


@pytest.fixture
async def front(tmp_path):
    pebble = Pebble(tmp_path, kind=True)
    front = CaFront(tmp_path, upstream=pebble.directory_url, upstream_ca=pebble.ca_file)
    front.http_port = pebble.http_port
    await pebble.ready()
    await front.open()
    yield front
    await front.shut()
    await pebble.stop()


async def test_a_clock_that_is_behind_the_ca_s_is_told_everywhere(front, connect, sql, tmp_path):
    front.date = format_datetime(datetime.now(UTC) + BEHIND, usegmt=True)
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=front.http_port)
    plane.issuer(front.directory_url, front.ca_file, terms_agreed=True)
    probes = free_port()
    plane.settings["metrics"] = {"listen": f"{HOST}:{probes}"}

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate WHERE status = 'active'") == 1

    await plane.start()
    try:
        await until(issued)
        async with aiohttp.ClientSession(f"http://{HOST}:{probes}") as http:
            ready = await (await http.get("/readyz")).json()
            metrics = await (await http.get("/metrics")).text()
        _, why = await plane.command("why", "www")
    finally:
        await plane.stop()
    (check,) = [check for check in ready["checks"] if check["name"] == "clock"]
    (told,) = [entry for entry in plane.entries() if entry["event"] == "clock.skewed"]
    (ahead,) = [line for line in metrics.splitlines() if line.startswith("certvoy_clock_ahead_seconds{")]

    assert ("degraded", "degraded") == (ready["status"], check["health"])
    assert "behind internal's; set this machine's clock" in check["detail"]
    assert "✗ clock: that of the replica asked is" in why
    assert "s behind internal's" in why
    assert "internal" == told["issuer"]
    assert -660 < told["ahead_s"] < -500
    assert -660 < float(ahead.rpartition(" ")[2]) < -500
