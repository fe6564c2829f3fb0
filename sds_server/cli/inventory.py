"""What the commands beside a running server share: its database, and who is asking."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from sds_server import app
from sds_server.config import load
from sds_server.inventory.database import Database, check_schema, open_database

T = TypeVar("T")

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path), default="certvoy.yaml", show_default=True
)


def actor() -> str:
    """Who is asking, for the audit: the user of this machine."""
    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, OSError):
        return "person:unknown"


def ask(path: Path, question: Callable[[Database], Awaitable[T]]) -> T:
    """Run a question against the inventory that a configuration names.

    Raises:
        Unavailable: its database does not answer.
        SchemaMismatch: its schema is not this release's.
    """

    async def run() -> T:
        database = await open_database(app.connect_arguments(load(path)), size=1)
        try:
            await check_schema(database)
            return await question(database)
        finally:
            await database.close()

    return asyncio.run(run())
