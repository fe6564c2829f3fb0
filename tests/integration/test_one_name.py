"""Two Envoys behind one name in DNS: a rotation is complete once both serve it, and who hangs is named.

The control plane runs in the test's process, where the name leads to both.
"""

import asyncio
import socket
import time

import pytest

from sds_server import app
from sds_server.config import certvoy_yaml as config
from sds_server.inventory import targets
from sds_server.lookups import Lookups, apart
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.outage import HEALED_WITHIN_S, SLOW_MACHINE_S, tell

NAME = "pool.test"
OTHER = "127.0.0.2"

pytestmark = [pytest.mark.debian, pytest.mark.timeout(600)]


def look(host, port, *more):
    """Resolve as the system does, but for the one name."""
    ips = (HOST, OTHER) if host == NAME else (host,)
    return [found for ip in ips for found in socket.getaddrinfo(ip, port, *more)]


@pytest.fixture
async def plane(pebble, front, connect, database, tmp_path):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    plane.issuer(front.directory_url, front.ca_file, terms_agreed=True)
    plane.settings["grants"] = grants("www")
    plane.write()
    with apart(Lookups(look)):
        async with app.running(config.load(plane.config)):
            yield plane


@pytest.fixture
async def edges(plane, tmp_path):
    """Two on one port, each a target of its own that is looked at by the name of both."""
    first = Edge(tmp_path, plane)
    edges = first, Edge(tmp_path, plane, name="edge-2", host=OTHER, ports=first.ports)
    for edge in edges:
        at = f"{NAME}:{first.ports['www']}"
        code, said = await plane.command("targets", "add", edge.name, "--probe", at, "--secret", "www")
        assert 0 == code, said
    await asyncio.gather(*(edge.start() for edge in edges))
    yield edges
    for edge in edges:
        edge.thaw()
        await edge.stop()


async def test_a_rotation_waits_for_the_one_that_hangs(plane, edges, database, sql):
    answering, hanging = edges
    port = answering.ports["www"]

    async def outcome(generation):
        return await sql.fetchval(
            "SELECT r.outcome FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
            " WHERE c.generation = $1",
            generation,
        )

    async def known():
        return {item.target.name: item for item in await targets.live_set(database, "www")}

    await until(lambda: outcome(1))
    before = {await edge.served() for edge in edges}
    hanging.freeze()
    code, said = await plane.command("rotate", "www")
    assert 0 == code, said

    async def switched():
        return await answering.served() not in {None, *before}

    async def named():
        return f"{NAME}:{port} at {OTHER}:{port}" in ((await known())["edge-1"].probe_error or "")

    await until(switched)
    await until(named)
    meanwhile, early = (await known())["edge-1"], await outcome(2)
    hanging.thaw()
    began = time.monotonic()
    await until(lambda: outcome(2))
    took_s = time.monotonic() - began
    after = {await edge.served() for edge in edges}

    tell("one of two behind a name hung", completed=f"{took_s:.1f} s after it went on")
    assert 1 == len(before)
    assert (2, 1, None) == (meanwhile.accepted, meanwhile.proved, early)
    assert "completed" == await outcome(2)
    assert took_s < HEALED_WITHIN_S + SLOW_MACHINE_S
    assert 1 == len(after - before) == len(after)
    assert {2} == {item.proved for item in (await known()).values()}
