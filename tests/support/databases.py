"""PostgreSQL for tests: one real server a run, one database a test, a clock that can be turned."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from sds_server.inventory.database import Database, open_database
from sds_server.inventory.schema import migrate
from sds_server.programs.postgres import EmbeddedPostgres
from tests.support.keyscan_plugin import SCAN, here

MEMORY = Path("/dev/shm")
ROOM = 2 * 2**30
"""What a worker's databases may grow to with its WAL; a container's /dev/shm has 64 MiB often."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    """The connection arguments of a server: CERTVOY_TEST_DATABASE_URL, else the wheel's own."""
    url = os.environ.get("CERTVOY_TEST_DATABASE_URL")
    if url:
        yield {"dsn": url}
        return
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    with tempfile.TemporaryDirectory(prefix="certvoy-pg-", dir=MEMORY if in_memory else None) as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", durable=False)
        asyncio.run(server.start())
        asyncio.run(_open_quickly(server.connect))
        yield server.connect
        asyncio.run(server.stop())


async def _open_quickly(connect: dict[str, Any]) -> None:
    """Spare each of thousands of connections the 4,096 rounds that make guessing a password dear."""
    admin = await asyncpg.connect(**connect)
    try:
        await admin.execute("SET scram_iterations = 1")
        await admin.execute(f"ALTER ROLE {connect['user']} PASSWORD '{connect['password']}'")
    finally:
        await admin.close()


@pytest.fixture(scope="session")
def template(postgres: dict[str, Any]) -> Iterator[str]:
    """The name of a migrated database that nobody has open: a copy takes a tenth of the migrations' time."""

    async def make() -> str:
        name = f"template_{uuid4().hex[:12]}"
        await _execute(postgres, f"CREATE DATABASE {name}")
        opened = await open_database({**postgres, "database": name}, size=1)
        await migrate(opened)
        await opened.close()
        return name

    name = asyncio.run(make())
    yield name
    asyncio.run(_execute(postgres, f"DROP DATABASE {name}"))


async def _execute(postgres: dict[str, Any], statement: str) -> None:
    admin = await asyncpg.connect(**postgres)
    try:
        await admin.execute(statement)
    finally:
        await admin.close()


@pytest.fixture
async def connect(postgres: dict[str, Any], template: str) -> AsyncIterator[dict[str, Any]]:
    """The connection arguments of a database that is migrated, and empty otherwise."""
    async with empty_database(postgres, f"TEMPLATE {template} STRATEGY FILE_COPY") as arguments:
        yield arguments


@pytest.fixture
async def bare(postgres: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The connection arguments of a database without tables, for who looks at what makes them."""
    async with empty_database(postgres) as arguments:
        yield arguments


@asynccontextmanager
async def empty_database(postgres: dict[str, Any], copied: str = "") -> AsyncIterator[dict[str, Any]]:
    """Make a database for the block; yields its connection arguments."""
    name = f"test_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(**postgres)
    try:
        await admin.execute(f"CREATE DATABASE {name} {copied}")
        yield {**postgres, "database": name}
    finally:
        await SCAN.look_at_database({**postgres, "database": name}, here())
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        # Its roles, and the logins that a test has made, are the whole cluster's.
        for role in await admin.fetch("SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", name):
            await admin.execute(f'DROP ROLE "{role["rolname"]}"')
        await admin.close()


@pytest.fixture
async def database(connect: dict[str, Any]) -> AsyncIterator[Database]:
    """A migrated database."""
    opened = await open_database(connect, size=5)
    yield opened
    await opened.close()


@pytest.fixture
async def sql(connect: dict[str, Any], database: Database) -> AsyncIterator[Any]:
    """A connection of its own, for looking and for doing what certvoy never does."""
    connection = await asyncpg.connect(**connect)
    yield connection
    await connection.close()


async def turn_clock(sql: Any, forward: timedelta) -> None:
    """Turn the database's clock, by which leases and due dates are decided."""
    await sql.execute(
        "CREATE OR REPLACE FUNCTION certvoy_now() RETURNS timestamptz LANGUAGE sql STABLE AS"
        f" 'SELECT clock_timestamp() + interval ''{forward.total_seconds()} seconds'''"
    )


async def waits(sql: Any, working: asyncio.Task[Any]) -> bool:
    """Return whether the work waits for somebody's lock, as soon as it does; or it is done without."""
    while not working.done():
        if await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        ):
            return True
        await asyncio.sleep(0.01)
    return False
