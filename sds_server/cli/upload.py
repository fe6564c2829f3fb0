"""`certvoy upload NAME`: a pair from elsewhere as a secret's next certificate."""

from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, note
from sds_server.cli.wait import tell, timeout_option, wait_option
from sds_server.errors import CallerError

PEM_HINT: Final = "name a PEM file"
BEGIN_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"

pem_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("name")
@click.option("--chain", required=True, type=pem_file, help="PEM: the leaf first, no root.")
@click.option("--private-key", required=True, type=pem_file, help="PEM: the leaf's key, not encrypted.")
@wait_option
@timeout_option
@json_option
@asks
def upload(
    name: str,
    *,
    chain: Path,
    private_key: Path,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Upload a pair as the next certificate of the secret NAME; one that is not there is created.

    \b
    certvoy upload www --chain www.pem --private-key www.key --wait
    """
    body = {"chain": read_pem(chain), "private_key": read_pem(private_key)}
    if body["chain"].count(BEGIN_CERTIFICATE) == 1:
        # Right where a root has signed it; else who does not know the intermediate refuses it.
        note(f"{chain} holds the leaf alone: is there no intermediate? (of certbot it is fullchain.pem)")
    secret = api.put("v1", "secrets", name, "certificate", body=body)
    tell(
        api,
        secret,
        rotation=secret["rotation"],
        timeout=timeout if wait else None,
        as_json=as_json,
        opened="has this pair",
        nothing_to_do="is served with it already",
    )


def read_pem(path: Path) -> str:
    """Return the text of a PEM file.

    Raises:
        CallerError: it cannot be read, or is not text.
    """
    try:
        return read_bytes(path, hint=PEM_HINT).decode()
    except ValueError:
        raise CallerError(f"cannot read {path}: it is not text", hint=PEM_HINT) from None


def read_bytes(path: Path, *, hint: str = "name a file that exists") -> bytes:
    """Return what a file holds.

    Raises:
        CallerError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as e:
        raise CallerError(f"cannot read {path}: {e.strerror}", hint=hint) from None
