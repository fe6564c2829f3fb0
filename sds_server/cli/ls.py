"""`certvoy ls`: the inventory."""

from datetime import UTC, datetime, timedelta
from typing import Final

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import NONE, json_option, moment, print_json, table
from sds_server.cli.wait import Duration

CERTIFICATE: Final = "tls_certificate"


@click.command()
@click.option("--certificates", is_flag=True, help="Each issuance, instead of each secret.")
@click.option("--secret", help="Certificates of this secret.")
@click.option("--status", help="Certificates that are so: active, expiring_soon, replaced, ...")
@click.option("--issuer")
@click.option("--domain", help="Only what covers this DNS name.")
@click.option("--expires-in", type=Duration(), help="Certificates that end within, such as 240h.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True)
@json_option
@asks
def ls(
    *,
    certificates: bool,
    secret: str | None,
    status: str | None,
    issuer: str | None,
    domain: str | None,
    expires_in: timedelta | None,
    limit: int,
    as_json: bool,
    api: Api,
) -> None:
    r"""List secrets by name or, asked for anything that certificates have, certificates by their end.

    \b
    certvoy ls --expires-in 240h --status active
    """
    if certificates or secret or status or expires_in:
        until = None if expires_in is None else (datetime.now(UTC) + expires_in).isoformat()
        found = list(
            api.pages(
                "v1",
                "certificates",
                limit=limit,
                secret=secret,
                status=status,
                issuer=issuer,
                domain=domain,
                expires_before=until,
            )
        )
        columns = ("SECRET", "GENERATION", "STATUS", "NOT AFTER", "RENEWAL", "ISSUER", "SERIAL")
        rows = [
            (
                item["secret"],
                item["generation"],
                item["status"],
                moment(item["not_after"]),
                moment(item["renew_at"]),
                item["issuer"],
                item["serial_number"],
            )
            for item in found
        ]
    else:
        found = list(api.pages("v1", "secrets", limit=limit, issuer=issuer, domain=domain))
        columns = ("SECRET", "STATUS", "NOT AFTER", "RENEWAL", "PROVED", "ISSUER", "DOMAINS")
        rows = [
            (
                item["name"],
                f"{_status(item) or NONE} (frozen)" if item["frozen"] else _status(item),
                moment(item["not_after"]),
                moment(item["renew_at"]),
                _proved(item),
                item["issuer"],
                _what(item),
            )
            for item in found
        ]
    if as_json:
        print_json(found)
    else:
        table(columns, rows)


def _what(secret: Json) -> str:
    """Say what it is for, and whether it came of a handshake."""
    what = ", ".join(secret["domains"]) or str(secret["kind"])
    return what if secret["on_demand"] is None else f"{what} (on demand: {secret['on_demand']})"


def _status(secret: Json) -> str | None:
    """Of what is no certificate only that it holds something."""
    if secret["kind"] == CERTIFICATE or secret["generation"] is None:
        return str(secret["status"]) if secret["status"] else None
    return f"generation {secret['generation']}"


def _proved(secret: Json) -> str:
    """Of what is no certificate, how many have taken it: of most kinds nothing can be proved."""
    if secret["kind"] == CERTIFICATE:
        return f"{secret['proved']}/{secret['targets']}"
    return f"{secret['accepted']}/{secret['targets']} accepted"
