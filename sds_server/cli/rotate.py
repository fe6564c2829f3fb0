"""`certvoy rotate NAME`: give a secret its next certificate now."""

from datetime import timedelta

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, print_json
from sds_server.cli.wait import follow, outcome, timeout_option, wait_option


@click.command()
@click.argument("name")
@wait_option
@timeout_option
@json_option
@asks
def rotate(name: str, *, wait: bool, timeout: timedelta, as_json: bool, api: Api) -> None:
    r"""Give the secret NAME its next certificate now, or try again at once where one is on its way.

    \b
    certvoy rotate www --wait
    """
    rotation = api.post("v1", "secrets", name, "rotations", repeat=True)
    if wait:
        rotation = follow(api, rotation["id"], of=name, timeout=timeout)
    if as_json:
        print_json(rotation)
    elif wait:
        click.echo(outcome(rotation))
    else:
        click.echo(f"rotation {rotation['id']} of {name} is open; `certvoy why {name}` says how it goes")
