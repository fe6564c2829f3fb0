"""The database away in every way: proxies are served from memory, and everything resumes by itself."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import asyncpg
import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.programs.postgres import EmbeddedPostgres
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.fault_proxy import Fault
from tests.support.outage import HEALED_WITHIN_S, LONG, SLOW_MACHINE_S, state, tell, watching
from tests.support.postgres_network import behind

pytestmark = pytest.mark.timeout(600)


class World:
    """A CA, a PostgreSQL behind a network, a replica, and an Envoy that serves www."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []
        self.postgres = EmbeddedPostgres(directory / "postgres", durable=False)

    async def start(self, connect):
        http01_port = free_port()
        (self.directory / "caddy").mkdir()
        self.ca = await Caddy.start(self.directory / "caddy", responder=f"{HOST}:{http01_port}")
        self.plane = ControlPlane(self.directory, database=dsn(connect), http01_port=http01_port)
        self.plane.issuer(self.ca.directory_url, self.ca.ca_file)
        self.plane.settings["secrets"]["busy"] = {"domains": ["busy.example.test"], "issuer": "internal"}
        self.plane.settings["grants"] = grants("www")
        self.edge = Edge(self.directory, self.plane)
        self.running.append(self.ca)
        await self.plane.start()
        self.running.append(self.plane)
        await self.edge.start()
        self.running.append(self.edge)
        await until(self.edge.served)
        port = self.edge.ports["www"]
        await self.plane.command("targets", "add", "edge-1", "--probe", f"{HOST}:{port}", "--secret", "www")
        async with asyncpg_connection(self.postgres.connect) as sql:

            async def active():
                return await sql.fetchval("SELECT count(*) FROM certificate WHERE status = 'active'") == 2

            await until(active)

    async def begin_work(self):
        """Let the outage meet an order that is under way, of a Secret that nobody watches."""
        begun = self.plane.log().count("order.created")
        async with asyncpg_connection(self.postgres.connect) as sql:
            await sql.execute(
                "UPDATE certificate SET renew_at = now() WHERE secret = 'busy' AND status = 'active'"
            )

        async def under_way():
            return self.plane.log().count("order.created") > begun

        await until(under_way)

    async def stop(self):
        while self.running:
            await self.running.pop().stop()
        await self.postgres.stop()

    async def rotates(self):
        """Return in how many seconds a rotation is proved."""
        began = time.monotonic()
        code, said = await self.plane.command("rotate", "www", "--wait", "--timeout", "180s")
        assert 0 == code, said
        return time.monotonic() - began

    async def is_well(self):
        return await state(self.plane) == "ok"

    async def is_degraded(self):
        return await state(self.plane) == "degraded"

    async def resumes(self):
        """Return in how many seconds it is well again, and works, which nobody tells it."""
        began = time.monotonic()
        async with asyncpg_connection(self.postgres.connect) as sql:
            await sql.execute(
                "UPDATE certificate SET renew_at = now() WHERE secret = 'www' AND status = 'active'"
            )

            async def renewed():
                """Also what was under way when the outage began."""
                return (
                    await sql.fetchval("SELECT count(DISTINCT secret) FROM certificate WHERE generation > 1")
                    == 2
                )

            await until(self.is_well)
            await until(renewed)
        return time.monotonic() - began


class asyncpg_connection:  # noqa: N801 - a context manager
    def __init__(self, connect):
        self._connect = connect

    async def __aenter__(self):
        self._sql = await asyncpg.connect(**self._connect)
        return self._sql

    async def __aexit__(self, *_error):
        await self._sql.close()


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    await made.postgres.start()
    async with behind(made.postgres.connect) as network:
        made.proxy = network.proxy
        try:
            await made.start(network.connect)
            yield made
        finally:
            network.proxy.heal()
            await made.stop()


async def outage(world, *, lasts_s, begin, heal):
    """Let it happen under load; a proxy restarts in the middle of it."""
    leaf = await world.edge.served()
    async with watching(world.plane, world.edge) as watch:
        await world.begin_work()
        await begin()
        began = time.monotonic()
        await until(world.is_degraded)
        noticed_s = time.monotonic() - began
        await asyncio.sleep(max(0.5, lasts_s / 2 - noticed_s))
    await world.edge.stop()
    await world.edge.start()
    began = time.monotonic()

    async def served_again():
        return await world.edge.served() == leaf

    await until(served_again)
    reconnected_s = time.monotonic() - began
    async with watching(world.plane, world.edge) as rest:
        await asyncio.sleep(lasts_s / 2)
        await heal()
        resumed_s = await world.resumes()
    for seen in (watch, rest):
        seen.assert_served()
    assert {leaf} == watch.leaves
    assert leaf in rest.leaves
    assert "degraded" in watch.states
    assert "failed" not in watch.states | rest.states
    assert resumed_s < HEALED_WITHIN_S + SLOW_MACHINE_S, world.plane.log()
    return {
        "noticed": f"{noticed_s:.1f} s",
        "a proxy that restarted was served": f"{reconnected_s:.1f} s",
        "resumed": f"{resumed_s:.1f} s",
        **watch.figures(),
    }


async def test_a_database_that_is_killed(world):
    async def heal():
        await world.postgres.start()

    async def kill():
        world.postgres.kill()

    figures = await outage(world, lasts_s=20 if LONG else 2, begin=kill, heal=heal)
    tell("PostgreSQL killed", rotated=f"{await world.rotates():.1f} s", **figures)


async def test_a_database_that_is_stopped(world):
    def children():
        pid = world.postgres.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, found)]

    stopped = []

    async def stop():
        stopped.extend(children())
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    async def go_on():
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    try:
        figures = await outage(world, lasts_s=30 if LONG else 2, begin=stop, heal=go_on)
    finally:
        await go_on()
    tell("PostgreSQL stopped", rotated=f"{await world.rotates():.1f} s", **figures)


async def test_a_database_behind_a_black_hole(world):
    async def swallow():
        world.proxy.become(Fault.BLACK_HOLE)

    async def heal():
        world.proxy.heal()

    figures = await outage(world, lasts_s=60 if LONG else 2, begin=swallow, heal=heal)
    tell("PostgreSQL behind a black hole", rotated=f"{await world.rotates():.1f} s", **figures)


async def test_connections_that_a_network_resets_cost_nothing(world):
    world.proxy.become(Fault.RESET)
    world.proxy.heal()
    took_s = await world.rotates()

    tell("connections reset", rotated=f"{took_s:.1f} s")
    assert took_s < HEALED_WITHIN_S + SLOW_MACHINE_S


def succeeds(command):
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
async def small_disk(tmp_path):
    """A PostgreSQL whose disk is a tmpfs of 96 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = f"size=96m,mode=0755,uid={os.getuid()}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    root: list[str] | None = next((way for way in ([], ["sudo", "-n"]) if succeeds([*way, *mount])), None)
    if root is None:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    made = World(tmp_path)
    made.postgres = EmbeddedPostgres(disk / "postgres", durable=False)
    try:
        await made.postgres.start()
        await made.start(made.postgres.connect)
        yield made, disk
    finally:
        await made.stop()
        subprocess.run([*root, "umount", "-l", str(disk)], check=True)


async def test_a_full_disk(small_disk):
    """Reads work on, and now and then a write that finds room in a page; room is all that it takes."""
    world, disk = small_disk
    filler = disk / "filler"

    async def keep_full():
        """Also what PostgreSQL gives back; and let there be work that writes."""
        block = bytes(1 << 12)
        while True:
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while file.write(block):
                    pass
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with asyncpg_connection(world.postgres.connect) as sql:
                    await sql.execute("UPDATE certificate SET renew_at = now() WHERE status = 'active'")
            await asyncio.sleep(0.2)

    async with watching(world.plane, world.edge) as watch:
        await world.begin_work()
        filling = asyncio.create_task(keep_full())
        try:
            await until(world.is_degraded)
            await asyncio.sleep(20 if LONG else 2)
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
        filler.unlink()
        if world.postgres.pid is None:  # PostgreSQL itself may go down by it
            await world.postgres.start()
        resumed_s = await world.resumes()
    watch.assert_served()

    tell(
        "disk full", resumed=f"{resumed_s:.1f} s", rotated=f"{await world.rotates():.1f} s", **watch.figures()
    )
    assert resumed_s < HEALED_WITHIN_S + SLOW_MACHINE_S, world.plane.log()


@pytest.mark.parametrize("deep", ["", "d" * 100])
async def test_an_embedded_database_that_dies_is_started_again(tmp_path, deep):
    """Nobody else would. Also where its socket lies elsewhere, as the directory's path is too long."""
    directory = tmp_path / deep
    directory.mkdir(exist_ok=True)
    plane = ControlPlane(directory, database="embedded")
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    await plane.start()
    pid_file = directory / "state" / "postgres" / "data" / "postmaster.pid"
    pid = int(pid_file.read_text().split()[0])
    try:
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()

        async def again():
            code, _ = await plane.command("ls")
            return pid_file.exists() and pid != int(pid_file.read_text().split()[0]) and code == 0

        await until(again)
        took_s = time.monotonic() - began
    finally:
        await plane.stop()

    tell("an embedded PostgreSQL killed", resumed=f"{took_s:.1f} s")
    assert took_s < HEALED_WITHIN_S + SLOW_MACHINE_S
