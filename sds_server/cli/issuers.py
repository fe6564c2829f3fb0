"""`certvoy issuers`: the CAs, our accounts there, and what a person tells them."""

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import json_option, moment, print_json, table


@click.group()
def issuers() -> None:
    """List the CAs, and keep our accounts there."""


@issuers.command()
@json_option
@asks
def ls(*, as_json: bool, api: Api) -> None:
    """List the issuers, our account at each, and why one is left alone."""
    found = api.get("v1", "issuers")["items"]
    if as_json:
        print_json(found)
        return
    table(
        ("ISSUER", "DIRECTORY", "ACCOUNT", "LEFT ALONE"),
        [(item["name"], item["directory"], item["account"], _paused(item)) for item in found],
    )


@issuers.command()
@click.argument("name")
@asks
def resume(name: str, *, api: Api) -> None:
    """Let work go on at the issuer NAME, after you have done what its CA wanted."""
    api.post("v1", "issuers", name, "resume")
    click.echo(f"{name} is asked whether it answers, then its work goes on")


@issuers.command("change-key")
@click.argument("name")
@json_option
@asks
def change_key(name: str, *, as_json: bool, api: Api) -> None:
    """Give our account at the issuer NAME another key; certificates and orders stay as they are."""
    issuer = api.post("v1", "issuers", name, "account", "key")
    _say(issuer, f"{issuer['account']} has another key", as_json=as_json)


@issuers.command("tell-contact")
@click.argument("name")
@json_option
@asks
def tell_contact(name: str, *, as_json: bool, api: Api) -> None:
    """Tell the issuer NAME the contacts that the configuration has for it now."""
    issuer = api.post("v1", "issuers", name, "account", "contact")
    _say(issuer, f"{issuer['account']} has the contacts of the configuration", as_json=as_json)


@issuers.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@asks
def deactivate(name: str, *, yes: bool, as_json: bool, api: Api) -> None:
    """End our account at the issuer NAME for good, as where its key is lost.

    Certificates stay valid. The next order begins another account, with another key.
    """
    if not yes:
        click.confirm(f"End the account at {name}? It cannot be undone", abort=True, err=True)
    issuer = api.post("v1", "issuers", name, "account", "deactivation")
    _say(issuer, f"{name}: the account is ended; the next order begins another", as_json=as_json)


def _say(issuer: Json, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(issuer)
    else:
        click.echo(words)


def _paused(item: Json) -> str | None:
    paused = item["paused"]
    if paused is None:
        return None
    if paused["until"] is None:
        return f"{paused['error']['hint']}"
    return f"until {moment(paused['until'])}: {paused['error']['what']}"
