"""`certvoy issue`, `certvoy delete`: what is wanted."""

from datetime import timedelta

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option
from sds_server.cli.wait import tell, timeout_option, wait_option
from sds_server.errors import CallerError


@click.command()
@click.argument("name")
@click.option("--domain", "domains", multiple=True, help="A DNS name, the primary first; NAME by default.")
@click.option("--issuer", help="One of `issuers:`; the only one by default.")
@click.option(
    "--fallback", "fallback", multiple=True, help="An issuer that is asked where the first does not deliver."
)
@click.option("--key-type", default="ecdsa-p256", show_default=True)
@click.option(
    "--proof",
    default="all",
    show_default=True,
    help="What completes a rotation: all of the live set proved, a share such as 90%, or accepted.",
)
@click.option(
    "--key-holder",
    default="certvoy",
    show_default=True,
    help="Who makes the private keys: certvoy, or target, the one agent that serves it.",
)
@click.option(
    "--key-file",
    help="With --key-holder target, for an Envoy: where on its disk it finds each key, DIRECTORY/{spki}.pem.",
)
@wait_option
@timeout_option
@json_option
@asks
def issue(
    name: str,
    *,
    domains: tuple[str, ...],
    issuer: str | None,
    key_type: str,
    proof: str,
    key_holder: str,
    key_file: str | None,
    fallback: tuple[str, ...],
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Declare the secret NAME and get its certificate. Repeating it changes nothing.

    \b
    certvoy issue www --domain www.example.com --domain example.com --wait
    """
    body = {
        "domains": list(domains or [name]),
        "issuer": issuer or _only_issuer(api),
        "key_type": key_type,
        "proof": proof,
        "key_holder": key_holder,
        "key_file": key_file,
        "fallback": list(fallback),
    }
    secret = api.put("v1", "secrets", name, body=body)
    rotation = secret["rotation"]
    if rotation["state"] in {"waiting", "held"} and rotation["last_error"] is not None:
        # Who says it again, by hand, has mended something and does not want to wait for the next attempt.
        rotation = api.post("v1", "secrets", name, "rotations", repeat=True)
    tell(
        api,
        secret,
        rotation=rotation,
        timeout=timeout if wait else None,
        as_json=as_json,
        opened="is declared",
        nothing_to_do="is as it shall be",
    )


@click.command()
@click.argument("name")
@asks
def delete(name: str, *, api: Api) -> None:
    """Take the secret NAME out of the inventory; proxies go on with what they have."""
    api.delete("v1", "secrets", name)
    click.echo(f"{name} is deleted")


def _only_issuer(api: Api) -> str:
    names = [item["name"] for item in api.get("v1", "issuers")["items"]]
    if len(names) != 1:
        raise CallerError(
            f"which issuer? There are {', '.join(names) or 'none'}", hint="choose one with --issuer"
        )
    return str(names[0])
