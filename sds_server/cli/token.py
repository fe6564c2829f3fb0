"""`certvoy token`: bearer tokens, for callers of the API and for proxies without a certificate."""

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import json_option, moment, note, print_json, table
from sds_server.errors import NotFound


@click.group()
def token() -> None:
    """Make and revoke tokens: of the admin API, or of an identity for SDS."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="read, issue, rotate, deliver, revoke, enroll, admin.",
)
@click.option("--identity", help="Who shows it to SDS is this identity; it may nothing of the API.")
@click.option("--ttl", default="90d", show_default=True, help="How long it lasts, such as 12h or 90d.")
@json_option
@asks
def create(
    name: str, *, scopes: tuple[str, ...], identity: str | None, ttl: str, as_json: bool, api: Api
) -> None:
    r"""Make the token NAME, and print it: it is said once and kept nowhere.

    \b
    certvoy token create ci --scope read --scope rotate > token
    certvoy token create edge-1 --identity spiffe://example.com/edge-1 > token
    """
    body: Json = {"name": name, "scopes": list(scopes), "ttl": ttl}
    if identity is not None:
        body["identity"] = identity
    made = api.post("v1", "tokens", body=body)
    if as_json:
        print_json(made)
    else:
        note(f"token {name} ends at {moment(made['expires_at'])}")
        click.echo(made["token"])


@token.command()
@json_option
@asks
def ls(*, as_json: bool, api: Api) -> None:
    """List the tokens."""
    found = list(api.pages("v1", "tokens"))
    if as_json:
        print_json(found)
        return
    table(
        ("ID", "TOKEN", "MAY, OR IS", "CREATED BY", "ENDS", "USED", "REVOKED"),
        [
            (
                item["id"],
                item["name"],
                ",".join(item["scopes"]) or item["identity"],
                item["created_by"],
                moment(item["expires_at"]),
                moment(item["last_used_at"]),
                moment(item["revoked_at"]),
            )
            for item in found
        ],
    )


@token.command()
@click.argument("name")
@asks
def revoke(name: str, *, api: Api) -> None:
    """Make the token NAME worthless from now on."""
    usable = [
        item for item in api.pages("v1", "tokens") if item["name"] == name and item["revoked_at"] is None
    ]
    if not usable:
        raise NotFound(f"token {name}: there is none that could be revoked", hint="`certvoy token ls`")
    for item in usable:
        api.delete("v1", "tokens", str(item["id"]))
    click.echo(f"token {name} is revoked")
