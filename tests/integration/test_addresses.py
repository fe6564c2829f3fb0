"""A certificate for an IP address, from configuration to handshake: certvoy, Pebble and Envoy, all real."""

import asyncio

import pytest

from tests.support import pebble
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    running = pebble.start(tmp_path_factory.mktemp("pebble"))
    yield running
    asyncio.run(running.stop())


async def test_it_is_ordered_served_and_proved_by_a_handshake_that_names_no_server(
    tmp_path, connect, ca, sql
):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=ca.http_port)
    plane.issuer(ca.directory_url, ca.ca_file, terms_agreed=True)
    plane.settings["secrets"] = {"www": {"domains": [HOST, "www.example.test"], "issuer": "internal"}}
    plane.settings["grants"] = grants("www")
    edge = Edge(tmp_path, plane)
    await plane.start()
    await edge.start()
    try:
        address = f"{HOST}:{edge.ports['www']}"
        await plane.command("targets", "add", "edge-1", "--probe", address, "--secret", "www")

        async def completed():
            return await sql.fetchval("SELECT outcome FROM certrotation") == "completed"

        await until(completed)
        row = await sql.fetchrow("SELECT domain, san_domains, fingerprint FROM certificate")
        _, shown = await plane.command("show", "www")

        assert HOST == row["domain"]
        assert row["fingerprint"] == await edge.served()
        assert HOST in shown
    finally:
        await edge.stop()
        await plane.stop()
