"""`certvoy issue`, `certvoy delete`: what is wanted."""

from datetime import timedelta
from typing import Any, Final

import click

from sds_server import model
from sds_server.cli.api import Api, Json, Refused, asks
from sds_server.cli.output import json_option, moment, note
from sds_server.cli.wait import tell, timeout_option, wait_option
from sds_server.errors import CallerError, NotFound

WISHES: Final = ("domains", "issuer", "fallback", "key_type", "proof", "key_holder", "key_file")
"""What a secret is declared by; of one that is there, each stays until an option names it."""

NAMED: Final = 5
"""So many of those that serve what is deleted are named."""


@click.command()
@click.argument("name")
@click.option(
    "--domain",
    "domains",
    multiple=True,
    help="A DNS name, the primary first; of a new secret NAME by default.",
)
@click.option("--issuer", help="One of `issuers:`; of a new secret the only one by default.")
@click.option(
    "--fallback", "fallback", multiple=True, help="An issuer that is asked where the first does not deliver."
)
@click.option("--key-type", help="Of a new secret ecdsa-p256 by default.")
@click.option(
    "--proof",
    help="What completes a rotation: all of the live set proved, of a new secret by default; a share such as"
    " 90%; or accepted.",
)
@click.option(
    "--key-holder",
    help="Who makes the private keys: certvoy, of a new secret by default, or target, the one agent that"
    " serves it.",
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
    key_type: str | None,
    proof: str | None,
    key_holder: str | None,
    key_file: str | None,
    fallback: tuple[str, ...],
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Declare the secret NAME and get its certificate. Repeating it changes nothing.

    Of a secret that is there already, what no option names stays: its domains too. An --issuer takes the
    place of the CAs that were asked before, those of --fallback among them.

    \b
    certvoy issue www --domain www.example.com --domain example.com --wait
    certvoy issue www --key-type rsa-2048 --wait
    """
    named = {
        "domains": list(domains),
        "issuer": issuer,
        "fallback": list(fallback),
        "key_type": key_type,
        "proof": proof,
        "key_holder": key_holder,
        "key_file": key_file,
    }
    before = _declared(api, name, needed=not domains)
    body = _kept(before, named) | {key: value for key, value in named.items() if value}
    body.setdefault("domains", [name])
    if "issuer" not in body:
        body["issuer"] = _only_issuer(api)
    secret = api.put("v1", "secrets", name, body=body)
    for line in _changes(before, secret):
        note(line)
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
    before = _declared(api, name, needed=False)
    api.delete("v1", "secrets", name)
    click.echo(f"{name} is deleted")
    serving = [one["target"] for one in before.get("deliveries", ()) if one["accepted"] or one["proved"]]
    if serving and before["certificate"] is not None:
        named = ", ".join(serving[:NAMED]) + (", ..." if len(serving) > NAMED else "")
        ends = moment(before["certificate"]["not_after"])
        note(f"served still, and renewed no more: by {named}, until {ends} at the latest")


def _declared(api: Api, name: str, *, needed: bool) -> Json:
    """Return the secret that is there; empty: there is none with a certificate, or we may not read."""
    try:
        secret: Json = api.get("v1", "secrets", name)
    except NotFound:
        return {}
    except Refused:
        if needed:  # nobody would know whose names are replaced
            raise
        return {}
    return secret if secret["kind"] == model.Kind.TLS_CERTIFICATE else {}


def _kept(before: Json, named: Json) -> Json:
    """Return what stays of the secret that is there, although no option names it."""
    # Fallbacks were chosen beside their first CA, and a file beside who makes the keys.
    gone = {"fallback"} if named["issuer"] else set()
    gone |= {"key_file"} if named["key_holder"] else set()
    gone |= {"issuer"} if before.get("issuer") == model.UPLOAD else set()
    return {key: before[key] for key in WISHES if key not in gone and before.get(key) is not None}


def _changes(before: Json, after: Json) -> list[str]:
    """Say what is another now than it was; nothing of a secret that is new."""
    return [
        f"{after['name']}: {key.replace('_', ' ')} changed from {_shown(before[key])} to {_shown(after[key])}"
        for key in WISHES
        if before and before[key] != after[key]
    ]


def _shown(value: Any) -> str:
    return (", ".join(value) if isinstance(value, list) else value) or "none"


def _only_issuer(api: Api) -> str:
    names = [item["name"] for item in api.get("v1", "issuers")["items"]]
    if len(names) != 1:
        raise CallerError(
            f"which issuer? There are {', '.join(names) or 'none'}", hint="choose one with --issuer"
        )
    return str(names[0])
