"""`certvoy doctor`: what would go wrong, before it does."""

from typing import Final

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, note, print_json, table

FAILED: Final = 1


@click.group()
def doctor() -> None:
    """Look for what would go wrong."""


@doctor.command()
@click.argument("name")
@click.option(
    "--issuer", help="Which CA is to prove it; by default the secret's that has it, or the only one."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=80, show_default=True, help="Where the CA asks."
)
@json_option
@asks
def domain(name: str, *, issuer: str | None, port: int, as_json: bool, api: Api) -> int:
    r"""Look as a CA will whether NAME can be proved, and say what to mend. Nothing is ordered.

    Whether the CA answers; CAA records, also for the CAs that its secret falls back on; the name's addresses;
    and whether the challenge's way leads to certvoy: port 80 of each address, through your proxies, or the
    zone of the TXT record. It looks from where certvoy runs: a firewall may still keep the CA out. Exit code
    0 only if nothing failed.

    \b
    certvoy doctor domain www.example.com
    certvoy doctor domain '*.example.com' --issuer le
    """
    body = {"name": name, "issuer": issuer, "port": port}
    items = api.post("v1", "preflights", body=body, repeat=True)["items"]
    if as_json:
        print_json(items)
    else:
        table(
            ("CHECK", "VERDICT", "SEEN"), [(item["check"], item["verdict"], item["seen"]) for item in items]
        )
        for item in items:
            if item["fix"]:
                note(f"{item['check']}: {item['fix']}")
    return FAILED if any(item["verdict"] == "failed" for item in items) else 0
