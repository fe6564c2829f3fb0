"""PostgreSQL for tests: one real server a run, one database a test, a clock that can be turned."""

import asyncio
import os
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    """The connection arguments of a server: CERTVOY_TEST_DATABASE_URL, else the wheel's own."""
    url = os.environ.get("CERTVOY_TEST_DATABASE_URL")
    if url:
        yield {"dsn": url}
        return
    with tempfile.TemporaryDirectory(prefix="certvoy-pg-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", durable=False)
        asyncio.run(server.start())
        yield server.connect
        asyncio.run(server.stop())


@pytest.fixture
async def connect(postgres: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The connection arguments of an empty database."""
    async with empty_database(postgres) as arguments:
        yield arguments


@asynccontextmanager
async def empty_database(postgres: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Make a database for the block; yields its connection arguments."""
    name = f"test_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(**postgres)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield {**postgres, "database": name}
    finally:
        await SCAN.look_at_database({**postgres, "database": name}, here())
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def database(connect: dict[str, Any]) -> AsyncIterator[Database]:
    """A migrated database."""
    opened = await open_database(connect, size=5)
    await migrate(opened)
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
