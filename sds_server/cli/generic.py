"""`certvoy generic NAME`: bytes that a filter of Envoy's takes by name."""

import base64
from datetime import timedelta
from pathlib import Path

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option
from sds_server.cli.payload import told
from sds_server.cli.upload import pem_file, read_bytes
from sds_server.cli.wait import timeout_option, wait_option
from sds_server.errors import CallerError


@click.command()
@click.argument("name")
@click.option("--file", type=pem_file, help="What it holds, byte for byte: no newline is taken off.")
@click.option("--value", "values", multiple=True, help="NAME=FILE, where the filter takes named values.")
@wait_option
@timeout_option
@json_option
@asks
def generic(
    name: str,
    *,
    file: Path | None,
    values: tuple[str, ...],
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Put the generic secret NAME; one that is not there is created. It is read from files, never printed.

    \b
    certvoy generic oauth-hmac --file hmac.key --wait
    """
    if (file is None) == (not values):
        raise CallerError("say --file, or --value NAME=FILE", hint="one value, or named ones")
    body = {"value": _coded(file)} if file else {"values": dict(map(_named, values))}
    secret = api.put("v1", "secrets", name, "generic-secret", body=body)
    told(api, secret, timeout=timeout if wait else None, as_json=as_json)


def _named(text: str) -> tuple[str, str]:
    part, _, path = text.partition("=")
    if not part or not path:
        raise CallerError(f"--value {text}: must be NAME=FILE", hint="such as client_secret=/run/secret")
    return part, _coded(Path(path))


def _coded(path: Path) -> str:
    return base64.b64encode(read_bytes(path)).decode()
