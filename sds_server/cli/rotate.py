"""`certvoy rotate NAME`: give a secret its next certificate now."""

from pathlib import Path

import click

from sds_server.cli.inventory import actor, ask, config_option
from sds_server.inventory import rotations
from sds_server.model import Reason


@click.command()
@click.argument("name")
@config_option
def rotate(name: str, path: Path) -> None:
    """Give the secret NAME its next certificate now, or try again at once where one is on its way."""
    rotation = ask(
        path, lambda database: rotations.open_for(database, name, reason=Reason.OPERATOR, actor=actor())
    )
    click.echo(f"rotation {rotation} of {name} is open; `certvoy why {name}` says how it goes")
