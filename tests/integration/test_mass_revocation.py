"""All that a CA has issued, replaced under its limits: a drill of fifty, and four in real Envoys."""

import asyncio
import time

import aiohttp
import pytest

from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import IDENTITY, Edge, grants
from tests.support.outage import tell
from tests.support.pebble import Pebble

pytestmark = [pytest.mark.debian, pytest.mark.timeout(600)]

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
        await until(completed)
        yield plane
    finally:
        await plane.stop()


async def test_a_drill_replaces_all_of_it_and_revokes_nothing(plane, sql):
    began = time.monotonic()
    code, printed = await plane.command(
        "revoke", "--all", "--issuer", "internal", "--dry-run", "--wait", "--timeout", "180s"
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


# With a proxy

SHOPS = [f"shop{n}" for n in range(4)]


@pytest.fixture
async def served(pebble, connect, sql, tmp_path):
    """Four certificates, each in an Envoy of its own and proved by a handshake there."""
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    limits = {"orders": "600/1m", "domain": "50/7d"}
    plane.issuer(pebble.directory_url, pebble.ca_file, terms_agreed=True, in_flight=1, limits=limits)
    plane.settings["secrets"] = {
        name: {"domains": [f"{name}.example.test"], "issuer": "internal"} for name in SHOPS
    }
    plane.settings["grants"] = grants(*SHOPS)
    plane.settings["rotation"]["settle"] = "1h"  # nothing counts as done before Envoy is there
    edges = {name: Edge(tmp_path, plane, [name], f"edge-{name}") for name in SHOPS}

    async def proved():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE outcome = 'completed'") == len(
            SHOPS
        )

    await plane.start()
    socket = aiohttp.UnixConnector(str(tmp_path / "state" / "admin.sock"))
    async with aiohttp.ClientSession("http://certvoy", connector=socket) as http:
        for name, edge in edges.items():
            body = {"probe": f"{HOST}:{edge.ports[name]}", "identity": IDENTITY, "node_id": edge.name}
            (await http.put(f"/v1/targets/{edge.name}", json=body | {"secrets": [name]})).raise_for_status()
    for edge in edges.values():
        await edge.start()
    try:
        await until(proved)
        yield plane, edges
    finally:
        for edge in edges.values():
            await edge.stop()
        await plane.stop()


async def test_all_is_replaced_delivered_and_proved_before_any_of_it_is_revoked(served, pebble, sql):
    plane, edges = served
    old = dict(await sql.fetch("SELECT secret, serial_number FROM certificate WHERE generation = 1"))
    prints = await sql.fetch("SELECT secret, fingerprint FROM certificate WHERE generation = 1")
    before = {row["secret"]: row["fingerprint"] for row in prints}
    too_early: list[str] = []

    async def watch():
        """A handshake at each, in turn: what is served must not be revoked at that moment."""
        while True:
            for name in SHOPS:
                state, _ = await pebble.revocation(old[name])
                if state == "Revoked" and await edges[name].served(name) == before[name]:
                    too_early.append(name)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    code, printed = await plane.command(
        "revoke", "--all", "--issuer", "internal", "--reason", "superseded", "--wait", "--timeout", "180s"
    )
    watching.cancel()
    states = {name: await pebble.revocation(serial) for name, serial in old.items()}
    new = await sql.fetch("SELECT secret, serial_number, fingerprint FROM certificate WHERE generation = 2")

    assert 0 == code, printed
    assert dict.fromkeys(SHOPS, ("Revoked", 4)) == states
    assert [] == too_early
    for row in new:
        assert ("Valid", None) == await pebble.revocation(row["serial_number"])
        assert row["fingerprint"] == await edges[row["secret"]].served(row["secret"])
    assert len(SHOPS) == len(new)
