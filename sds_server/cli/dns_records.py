"""`certvoy dns-records`: what may be written into a zone for our account; writes nothing itself."""

import asyncio
import time
from datetime import UTC, datetime

import click

from acme_engine.dns_records import (
    account_record_name,
    persist_record_name,
    persist_record_text,
    zone_file_line,
)
from acme_engine.errors import AcmeError, BadIdentifier
from acme_engine.names import normalise
from sds_server.config.values import parts_of
from sds_server.errors import BadName, ConfigError, Unavailable

SOON_DAYS = 30


@click.command("dns-records")
@click.argument("domain")
@click.option("--account", required=True, metavar="URL", help="The account's URL at the CA.")
@click.option("--ca", required=True, help="The CA's domain name, as in CAA: letsencrypt.org.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="When the permission ends by itself.")
@click.option("--check", is_flag=True, help="Ask every server of the zone whether it has the record.")
@click.option("--nameserver", multiple=True, help="Who serves the zone; whom its NS records name by default.")
def dns_records(
    domain: str, *, account: str, ca: str, until: datetime | None, check: bool, nameserver: tuple[str, ...]
) -> int:
    r"""Print the standing record of dns-persist-01 for DOMAIN, and the name at which dns-account-01 looks.

    A wildcard's record permits the name's other hosts too. `certvoy issuers ls` shows the account's URL,
    once there is one.

    \b
    certvoy dns-records '*.example.com' --account https://ca.example/acct/1 --ca ca.example
    """
    try:
        name = normalise(domain)
    except BadIdentifier as e:
        raise BadName(str(e), hint=e.hint) from e
    url = parts_of(account)
    if url is None or url.scheme not in {"https", "http"}:
        raise ConfigError(
            f"--account: must be the account's URL, got {account!r}", hint="`certvoy issuers ls` shows it"
        )
    ends = None if until is None else until.replace(tzinfo=UTC)
    text = persist_record_text(ca, account, wildcard=name.startswith("*."), until=ends)
    click.echo(zone_file_line(persist_record_name(name), text))
    click.echo(f"; dns-account-01 looks at {account_record_name(name, account)}.")
    if ends is not None and (left := (ends - datetime.now(UTC)).days) < SOON_DAYS:
        click.echo(f"warning: the permission ends in {left} days, and renewals fail from then on", err=True)
    return _checked(persist_record_name(name), text, nameserver) if check else 0


def _checked(name: str, text: str, nameservers: tuple[str, ...]) -> int:
    from acme_engine.dns.propagation import served  # noqa: PLC0415 - only where it is asked for
    from acme_engine.dns.zones import Zones  # noqa: PLC0415

    async def look() -> tuple[bool, str]:
        place = await Zones(servers=nameservers).place(name)
        verdict = await served(
            place.owner,
            text,
            place.servers,
            limit_s=0.0,
            sleep=asyncio.sleep,
            monotonic=time.monotonic,
        )
        return verdict.served, verdict.reason

    try:
        there, reason = asyncio.run(look())
    except AcmeError as e:
        raise Unavailable(e.message, hint=e.hint) from e
    click.echo(reason)
    return 0 if there else 1
