"""`certvoy seal`, `unseal`: a replica that gives nothing away and opens nothing, until it is told to."""

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, print_json


@click.command()
@click.option("--reason", required=True, help="Why; whoever finds it sealed reads this.")
@json_option
@asks
def seal(*, reason: str, as_json: bool, api: Api) -> None:
    r"""Seal this replica at once: it forgets every key that it has opened, and gives nothing away.

    Proxies serve on what they have, and go to replicas that are not sealed. It stays sealed over a restart,
    and needs neither database nor KMS. Every replica is sealed by itself: by --config or --url.

    \b
    certvoy seal --reason "somebody is on this machine"
    """
    sealed = api.put("v1", "seal", body={"reason": reason})
    if as_json:
        print_json(sealed)
        return
    click.echo(
        f"sealed by {sealed['by'] or 'somebody'} at {sealed['at'] or 'some time'}: {sealed['reason'] or '?'};"
        " `certvoy unseal` ends it"
    )


@click.command()
@asks
def unseal(*, api: Api) -> None:
    """Break the seal of this replica: what proxies want is loaded anew."""
    api.delete("v1", "seal")
    click.echo("not sealed; what proxies want is loaded anew")
