"""`certvoy migrate`: bring the database to this release, as whoever owns its tables."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sds_server.config.certvoy_yaml import load
from sds_server.foundation import connect_arguments, connect_arguments_in
from sds_server.inventory.database import open_database
from sds_server.inventory.schema import Schema, bring_up


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default="certvoy.yaml", show_default=True)
@click.option(
    "--database-file",
    type=click.Path(path_type=Path),
    help="A file with the URL of the database for a login that may migrate it; no --config is read then.",
)
def migrate(path: Path, database_file: Path | None) -> None:
    """Bring the database to this release, and give its tables to their roles.

    A control plane does that itself where its login may. Where it logs in as a member of DATABASE_app only,
    run this before a newer release, as a member of DATABASE_migrator. It can be repeated.
    """
    connect = connect_arguments(load(path)) if database_file is None else connect_arguments_in(database_file)
    schema = asyncio.run(_bring_up(connect))
    for name in schema.applied:
        click.echo(f"applied {name}")
    if not schema.applied:
        click.echo("the database is of this release")
    roles = schema.roles
    if schema.hinders is None:
        click.echo(
            f"its roles: {roles.migrator} owns, {roles.app} serves, {roles.responder} answers challenges"
        )
    else:
        click.echo(f"its roles are not set up: {schema.hinders}. Run this as who may, then migrate again:")
        click.echo(_statements(schema))


async def _bring_up(connect: Mapping[str, Any]) -> Schema:
    database = await open_database(connect, size=1)
    try:
        return await bring_up(database, again=True)
    finally:
        await database.close()


def _statements(schema: Schema) -> str:
    """Return the SQL for whoever may make roles; of one that is there already psql says so, and goes on."""
    roles = [_quoted(role) for role in (schema.roles.migrator, schema.roles.app, schema.roles.responder)]
    made = [f"CREATE ROLE {role} NOLOGIN;" for role in roles]
    return "\n".join([*made, f"GRANT {roles[0]}, {roles[1]} TO {_quoted(schema.login)};"])


def _quoted(identifier: str) -> str:
    """Write an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'
