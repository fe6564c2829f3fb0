"""`certvoy tickets NAME`: session ticket keys, made on a schedule or brought."""

import base64
from datetime import timedelta
from pathlib import Path

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option
from sds_server.cli.payload import told
from sds_server.cli.upload import pem_file, read_bytes
from sds_server.cli.wait import Duration, timeout_option, wait_option
from sds_server.errors import CallerError


@click.command()
@click.argument("name")
@click.option("--rotate-every", type=Duration(), help="Have a key made so often, such as 12h.")
@click.option("--keep", type=click.IntRange(1, 16), default=3, show_default=True, help="So many in all.")
@click.option("--ticket-key", "keys", multiple=True, type=pem_file, help="80 bytes; the first encrypts.")
@click.option("--now", is_flag=True, help="Make the next one now.")
@wait_option
@timeout_option
@json_option
@asks
def tickets(
    name: str,
    *,
    rotate_every: timedelta | None,
    keep: int,
    keys: tuple[Path, ...],
    now: bool,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Have the session ticket keys NAME made and rotated, the same for all proxies; or bring them.

    \b
    certvoy tickets edge-tickets --rotate-every 12h --keep 3
    certvoy tickets edge-tickets --now
    """
    if sum((rotate_every is not None, bool(keys), now)) != 1:
        raise CallerError(
            "say one of --rotate-every, --ticket-key and --now", hint="such as --rotate-every 12h --keep 3"
        )
    if now:
        secret = api.post("v1", "secrets", name, "ticket-keys", "rotations")
    elif keys:
        brought = [base64.b64encode(read_bytes(key)).decode() for key in keys]
        secret = api.put("v1", "secrets", name, "ticket-keys", body={"keys": brought})
    else:
        assert rotate_every is not None  # noqa: S101 - one of the three
        body = {"rotate_every_s": rotate_every.total_seconds(), "keep": keep}
        secret = api.put("v1", "secrets", name, "ticket-keys", body=body)
    told(api, secret, timeout=timeout if wait else None, as_json=as_json, to_come=now)
