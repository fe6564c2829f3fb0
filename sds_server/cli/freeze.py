"""`certvoy freeze`, `resume`, `rollback`: a secret held as it is, let go on, or taken back."""

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, print_json


@click.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; whoever finds it frozen reads this.")
@json_option
@asks
def freeze(name: str, *, reason: str, as_json: bool, api: Api) -> None:
    r"""Hold the secret NAME as it is: nothing is issued for it, offered to more targets, or taken back.

    What is served is served on. One that is frozen already stays with its first reason.

    \b
    certvoy freeze www --reason "a launch until Friday"
    """
    secret = api.put("v1", "secrets", name, "freeze", body={"reason": reason})
    if as_json:
        print_json(secret)
        return
    frozen = secret["frozen"] or {"by": "nobody any more", "reason": reason}
    click.echo(f"{name} is frozen by {frozen['by']}: {frozen['reason']}; `certvoy resume {name}` ends it")


@click.command()
@click.argument("name")
@asks
def resume(name: str, *, api: Api) -> None:
    """Let the frozen secret NAME go on.

    Where certvoy froze it and asks, this is a yes: what is being rolled out goes to all, whoever refused it.
    """
    api.delete("v1", "secrets", name, "freeze")
    click.echo(f"{name} goes on; `certvoy why {name}` says how")


@click.command()
@click.argument("name")
@json_option
@asks
def rollback(name: str, *, as_json: bool, api: Api) -> None:
    """Take back what is being rolled out for the secret NAME: what was before is current again.

    A certificate's rotation tries again by itself after a pause; `certvoy freeze NAME` keeps it from that. A
    trust bundle, ticket keys or a generic secret stays as it was until somebody puts another.
    """
    answer = api.post("v1", "secrets", name, "rollback")
    if as_json:
        print_json(answer)
        return
    if (payload := answer.get("payload")) is not None:
        error = payload["versions"][0]["error"] or {}
    else:
        error = answer["last_error"] or {}
    click.echo(f"{name}: {error.get('what', 'it is taken back')}; `certvoy why {name}` says what comes next")
