"""Two real Envoys that call themselves alike, at one replica or at two: neither hides the other."""

import asyncio
import time

import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.outage import HEALED_WITHIN_S, SLOW_MACHINE_S, tell

NODE = "edge-1"
CALLED = f"2 proxies call themselves {NODE}: give each its own node.id"

pytestmark = pytest.mark.timeout(600)


class World:
    """A CA, one replica or two, and two Envoys under one node id: the first is where certvoy looks."""

    def __init__(self, directory, connect, sql, *, replicas):
        self.sql = sql
        self.directory = directory
        self.http01_port = free_port()
        self.planes = []
        for number in range(replicas):
            home = directory / f"replica-{number}"
            home.mkdir()
            plane = ControlPlane(
                home, database=dsn(connect), http01_port=None if number else self.http01_port
            )
            plane.settings |= {
                "replica": f"r{number}",
                "kms": {"key_file": str(directory / "kek")},
                "grants": grants("www"),
            }
            plane.settings["rotation"]["settle"] = "60s"  # nobody may take the live set for empty
            self.planes.append(plane)
        self.running = []

    async def start(self):
        (self.directory / "caddy").mkdir()
        self.ca = await Caddy.start(self.directory / "caddy", responder=f"{HOST}:{self.http01_port}")
        self.running.append(self.ca)
        for plane in self.planes:
            plane.issuer(self.ca.directory_url, self.ca.ca_file)
            plane.settings["secrets"] = {}  # declared once the Envoys are there
            await plane.start()
            self.running.append(plane)

    async def stop(self):
        for thing in reversed(self.running):
            await thing.stop()

    async def edge(self, name, *, at, refuses=False):
        edge = Edge(self.directory, self.planes[at], name=name, node_id=NODE, refuses=refuses)
        self.running.append(edge)
        await edge.start()
        return edge

    async def command(self, *arguments):
        code, said = await self.planes[0].command(*arguments)
        assert 0 == code, said
        return said

    async def said(self):
        """What `certvoy why` says, as one line."""
        return " ".join((await self.command("why", "www")).split())

    async def ended(self, generation):
        return await self.sql.fetchval(
            "SELECT r.completed_at IS NOT NULL FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
            " WHERE c.generation = $1",
            generation,
        )

    async def looked(self):
        """When the prover looks next: it changes with each of its looks."""
        return await self.sql.fetchval("SELECT look_at FROM certrotation WHERE completed_at IS NULL")

    async def looks_again(self, times=3):
        for _ in range(times):
            before = await self.looked()

            async def looked(before=before):
                return await self.looked() != before

            await until(looked)


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
async def world(request, connect, database, sql, tmp_path):
    made = World(tmp_path, connect, sql, replicas=request.param)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def test_one_that_is_frozen_holds_a_rotation_open_and_is_named(world):
    seen, other = await asyncio.gather(world.edge("one", at=0), world.edge("other", at=-1))
    await world.command("targets", "add", NODE, "--probe", f"{HOST}:{seen.ports['www']}")
    await world.command("issue", "www", "--domain", "www.example.test", "--wait", "--timeout", "180s")
    await until(other.served)
    first = await seen.served()

    other.freeze()
    await world.command("rotate", "www")

    async def switched():
        return await seen.served() not in {None, first}

    await until(switched)

    async def named():
        return f"{CALLED}; not all of them have accepted generation 2" in await world.said()

    await until(named)
    await world.looks_again()
    early = await world.ended(2)
    other.kill()
    began = time.monotonic()

    async def over():
        return await world.ended(2)

    await until(over)
    took_s = time.monotonic() - began

    tell("a twin that was frozen ends", completed=f"{took_s:.1f} s later")
    assert early is False
    assert took_s < HEALED_WITHIN_S + SLOW_MACHINE_S
    assert CALLED not in await world.said()


async def test_one_that_refuses_holds_a_rotation_open_and_is_named(world):
    seen, other = await asyncio.gather(world.edge("one", at=0), world.edge("other", at=-1, refuses=True))
    await world.command("targets", "add", NODE, "--probe", f"{HOST}:{seen.ports['www']}")
    await world.command("issue", "www", "--domain", "www.example.test")
    await until(seen.served)

    async def named():
        said = await world.said()
        return "OCSP" in said and CALLED in said

    await until(named)
    await world.looks_again()
    early = await world.ended(1)
    other.kill()
    began = time.monotonic()

    async def over():
        return await world.ended(1)

    await until(over)
    took_s = time.monotonic() - began

    tell("a twin that refused ends", completed=f"{took_s:.1f} s later")
    assert early is False
    assert took_s < HEALED_WITHIN_S + SLOW_MACHINE_S


async def test_two_that_both_accept_complete_it_and_are_named(world):
    seen, other = await asyncio.gather(world.edge("one", at=0), world.edge("other", at=-1))
    await world.command("targets", "add", NODE, "--probe", f"{HOST}:{seen.ports['www']}")
    await world.command("issue", "www", "--domain", "www.example.test", "--wait", "--timeout", "180s")

    async def same():
        return await other.served() == await seen.served()

    await until(same)

    assert CALLED in await world.said()
    assert CALLED in await world.command("targets", "show", NODE)
