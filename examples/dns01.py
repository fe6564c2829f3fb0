"""Order a wildcard with acme_engine alone: DNS-01 over a server that takes signed updates (RFC 2136).

    python examples/dns01.py https://localhost:14000/dir ca.pem example.test 127.0.0.1:5300 certvoy tsig.key

The last three are the zone's primary server, its TSIG key's name, and a file that holds the key's secret.
"""

import asyncio
import sys
from pathlib import Path

from acme_engine import Client, KeyType, keys, obtain
from acme_engine.dns.table import provider_of
from acme_engine.dns.zones import Zones
from acme_engine.dns01 import Dns01Solver


class Notes:
    """A Journal and a ValueLedger that say what they should keep: enough for what is run by hand."""

    async def ordered(self, order_url: str) -> None:
        """The CA has made the order: `obtain` with this URL goes on with it."""
        print(f"ordered     {order_url}")

    async def finalizing(self) -> None:
        """The CA may issue from now on."""

    async def issued(self, certificate_url: str) -> None:
        """The certificate can be had."""
        print(f"issued      {certificate_url}")

    async def put(self, name: str, value: str) -> None:
        """About to be published."""
        print(f"publishing  {name} TXT {value}")

    async def delete(self, name: str, value: str) -> None:
        """Taken away."""
        print(f"removed     {name} TXT {value}")


async def main(directory: str, ca_file: str, domain: str, settings: dict[str, str]) -> None:
    """Order for the domain and all below it."""
    provider = provider_of("rfc2136", settings)
    notes, names = Notes(), [domain, f"*.{domain}"]
    solver = Dns01Solver(provider, notes, zones=Zones(servers=[settings["server"]]))
    key = keys.generate(KeyType.ECDSA_P256)
    account = keys.generate(KeyType.ECDSA_P256)
    async with Client(directory, account_key=account, ca_file=Path(ca_file)) as client:
        await client.register(terms_agreed=True)
        chain = await obtain(client, names=names, csr=keys.csr(key, names), solver=solver, journal=notes)
    await provider.close()
    print(f"{', '.join(chain.names)}: until {chain.not_after:%F}")


if __name__ == "__main__":
    url, roots, name, primary, key_name, key_file = sys.argv[1:]
    tsig = {"key_name": key_name, "key_secret": Path(key_file).read_text().strip()}
    asyncio.run(main(url, roots, name, {"server": primary, **tsig}))
