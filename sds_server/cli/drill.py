"""`certvoy drill`: whether a backup would bring everything back, tried where nothing depends on it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import click

from sds_server import foundation
from sds_server.cli.output import moment, note, print_json
from sds_server.clock import SystemClock
from sds_server.config.certvoy_yaml import Config, load
from sds_server.errors import CustodyError
from sds_server.inventory import facts
from sds_server.inventory.database import open_database
from sds_server.inventory.facts import Backup
from sds_server.keys.custody import SAMPLE_MAX, Checked
from sds_server.lifecycle.key_checks import KeyChecks

ACTOR: Final = "person:drill"


@click.group()
def drill() -> None:
    """Try what you hope never to need."""


@drill.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default="certvoy.yaml", show_default=True)
@click.option(
    "--database",
    envvar="CERTVOY_DRILL_DATABASE",
    show_envvar=True,
    required=True,
    help="The URL of the restored copy; never that of the original.",
)
@click.option(
    "--sample", type=click.IntRange(1, SAMPLE_MAX), default=20, show_default=True, help="So many keys."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def restore(path: Path, database: str, sample: int, *, as_json: bool) -> None:
    """Open some keys of a restored database by the KEK of this configuration.

    Nothing is issued, served or sent to anybody, so that it may run beside the certvoy whose backup it is. It
    ends with 1 if a key does not open, or is not that of its certificate. No key is shown.
    """
    backup, checked = asyncio.run(_tried(load(path), database, sample))
    if as_json:
        refused = {str(key_id): why for key_id, why in checked.refused.items()}
        print_json({"opened": checked.opened, "refused": refused, "until": _until(backup)})
    else:
        click.echo(f"the backup ends at {moment(_until(backup))}")
        click.echo(f"{backup.secrets} secrets, {backup.entries} entries of the audit")
        click.echo(
            f"{checked.opened} of {checked.opened + len(checked.refused)} keys opened and are their own"
        )
    for key_id, why in checked.refused.items():
        note(why if str(key_id) in why else f"key {key_id}: {why}")
    if checked.refused:
        raise CustodyError(
            f"{len(checked.refused)} keys of the backup could not be used",
            hint="keep what backs this database up before that one until you know why",
        )


def _until(backup: Backup) -> str | None:
    return None if backup.until is None else backup.until.isoformat()


async def _tried(config: Config, dsn: str, sample: int) -> tuple[Backup, Checked]:
    async with AsyncExitStack() as stack:
        role = await foundation.prepare_schema({"dsn": dsn})
        database = await open_database({"dsn": dsn}, size=2, role=role)
        stack.push_async_callback(database.close)
        backup = await facts.backup(database)
        sealer, _ = await foundation.custody(config, database, SystemClock(), stack)
        checked = await KeyChecks(database=database, sealer=sealer).sample(sample, actor=ACTOR)
    return backup, checked
