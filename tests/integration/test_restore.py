"""The drill of docs/operations.md: the database is lost, and what was backed up brings everything back.

Real servers: PostgreSQL with its own pg_dump, a CA, a control plane, an Envoy that never stops.
"""

import asyncio
import json
import os
import subprocess
from contextlib import AsyncExitStack

import asyncpg
import pytest

from sds_server.programs import postgres as postgres_module
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.programs.postgres import EmbeddedPostgres
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.keyscan_plugin import SCAN, here
from tests.support.outage import tell
from tests.support.pages import DOCS, blocks, section

SECRETS = ("www", "api", "late")
BACKUP, RESTORE, _, DRILL = blocks(section(DOCS / "operations.md", "Back up and restore"))
"""As an operator copies them."""

pytestmark = pytest.mark.timeout(400)


class World:
    """A CA, a PostgreSQL, a replica, and an Envoy that serves three secrets."""

    def __init__(self, directory, stack):
        self.directory, self._stack = directory, stack
        self.postgres = self._server("first")

    def _server(self, name):
        return EmbeddedPostgres(self.directory / name, durable=False)

    async def start(self):
        await self.postgres.start()
        self._stack.push_async_callback(self._stop_postgres)
        http01_port = free_port()
        (self.directory / "caddy").mkdir()
        ca = await Caddy.start(self.directory / "caddy", responder=f"{HOST}:{http01_port}")
        self._stack.push_async_callback(ca.stop)
        self.plane = ControlPlane(
            self.directory, database=dsn(self.postgres.connect), http01_port=http01_port
        )
        self.plane.issuer(ca.directory_url, ca.ca_file)
        for name in SECRETS:
            # A listener each, and one address to probe: the handshakes of this test are the proof.
            declared = {"domains": [f"{name}.example.test"], "issuer": "internal", "proof": "accepted"}
            self.plane.settings["secrets"][name] = declared
        self.plane.settings["grants"] = grants(*SECRETS)
        self.edge = Edge(self.directory, self.plane, SECRETS)
        await self.plane.start()
        self._stack.push_async_callback(self._stop_plane)
        await self.edge.start()
        self._stack.push_async_callback(self.edge.stop)
        for name in SECRETS:
            await until(lambda name=name: self.edge.served(name))
        await until(self.is_active)

    async def _stop_postgres(self):
        await self.postgres.stop()

    async def _stop_plane(self):
        if self.plane.child is not None and self.plane.child.running:
            await self.plane.stop()

    async def is_active(self):
        return len(SECRETS) == await self.ask("SELECT count(*) FROM certificate WHERE status = 'active'")

    async def ask(self, statement, *arguments):
        sql = await asyncpg.connect(**self.postgres.connect)
        try:
            return await sql.fetchval(statement, *arguments)
        finally:
            await sql.close()

    async def said(self, *command):
        code, said = await self.plane.command(*command)
        assert 0 == code, said
        return said

    async def leaves(self):
        return {name: await self.edge.served(name) for name in SECRETS}

    async def serves_another(self, name, leaf):
        return leaf != await self.edge.served(name)

    async def lose(self):
        """What a disaster does: the control plane and its cluster are gone, and another one is made."""
        await self.plane.stop()
        await self.postgres.stop()
        self.postgres = self._server("second")
        await self.postgres.start()
        self.plane.settings["database"] = dsn(self.postgres.connect)

    async def shell(self, commands, **variables):
        """Run a block of the page, with the wheel's programs of PostgreSQL."""
        await asyncio.to_thread(self._shell, commands, variables)

    def _shell(self, commands, variables):
        path = f"{postgres_module._binaries()}:{self.directory}:{os.environ['PATH']}"
        script = self.directory / "certvoy"
        script.write_text(f'#!/bin/sh\nexec "{self.plane.program[0]}" -m sds_server "$@"\n')
        script.chmod(0o700)
        run = subprocess.run(
            ["sh", "-euc", commands],
            cwd=self.directory,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(self.plane.home), **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        SCAN.look("commands", f"{here()}: the drill", (run.stdout + run.stderr).encode())
        assert 0 == run.returncode, run.stdout + run.stderr
        return run.stdout


@pytest.fixture
async def world(tmp_path):
    async with AsyncExitStack() as stack:
        world = World(tmp_path, stack)
        await world.start()
        yield world


ORDERED = "SELECT count(*) FROM certaudit WHERE action = 'order.ordered'"
UNSEALED = """
    SELECT count(*) FROM certaudit a WHERE NOT EXISTS (SELECT FROM auditleaf WHERE event_id = a.id)
"""
KEYS = "SELECT count(*) FROM key_material WHERE destroyed_at IS NULL"
TOLD = "SELECT count(*) FROM certaudit"


async def test_a_backup_brings_everything_back(world, tmp_path):
    served, ordered = await world.leaves(), await world.ask(ORDERED)
    await world.shell(BACKUP, DATABASE=dsn(world.postgres.connect))
    SCAN.look("dumps", here(), (tmp_path / "certvoy.dump").read_bytes())
    entries = await world.ask(TOLD)
    await world.said("rotate", "late", "--wait", "--timeout", "180s")
    await until(lambda: world.serves_another("late", served["late"]))
    newer = await world.edge.served("late")
    await world.lose()
    meanwhile = await world.leaves()
    await world.shell(RESTORE, DATABASE=dsn(world.postgres.connect))
    restored = await world.ask(TOLD)
    tried = await asyncio.to_thread(world._shell, DRILL, {"DATABASE": dsn(world.postgres.connect)})
    child = world.plane.launch()
    assert 1 == await child.wait(), "the audit ends before what was witnessed"
    await world.plane.start("--acknowledge-fork")

    async def moved_back():
        return served["late"] == await world.edge.served("late")

    await until(moved_back)
    checked = json.loads(await world.said("kms", "check", "--sample", "100", "--json"))

    # Nobody noticed, but who had what came after the backup.
    assert served | {"late": newer} == meanwhile
    assert served == await world.leaves()
    assert restored >= entries
    assert "keys opened and are their own" in tried
    assert (await world.ask(KEYS), []) == (checked["opened"], checked["refused"])
    assert ordered == await world.ask(ORDERED), "ordered again what was there"

    # And everything goes on.
    for name in SECRETS:
        await world.said("rotate", name, "--wait", "--timeout", "180s")
        await until(lambda name=name: world.serves_another(name, served[name]))
    after = await world.leaves()
    assert set() == set(after.values()) & {*served.values(), newer}
    assert ordered + len(SECRETS) == await world.ask(ORDERED)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await world.ask("DELETE FROM certaudit")

    async def sealed():
        return 0 == await world.ask(UNSEALED)

    await until(sealed)
    assert '"audit.broken"' not in world.plane.log()
    state = tmp_path / "state"
    trusted = ["--public-key", state / "audit-key.pub", "--checkpoints", state / "audit-checkpoints.jsonl"]
    assert "given up" in await world.said("audit", "verify", *map(str, trusted))
    forked = "SELECT count(*) FROM certaudit WHERE action = 'audit.fork_accepted'"
    assert 1 == await world.ask(forked)
    tell("restored", orders=ordered, entries=restored)


async def test_a_backup_without_its_kek_is_found_out_by_the_drill(world, tmp_path):
    await world.shell(BACKUP, DATABASE=dsn(world.postgres.connect))
    await world.lose()
    await world.shell(RESTORE, DATABASE=dsn(world.postgres.connect))
    world.plane.settings["kms"] = {"key_file": str(tmp_path / "another-kek")}
    world.plane.write()
    code, said = await world.plane.command("drill", "restore", "--database", dsn(world.postgres.connect))

    assert 1 == code
    assert "kek" in said
    assert "kms.previous" in said
