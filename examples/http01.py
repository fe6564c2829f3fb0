"""Keep one certificate with acme_engine alone: HTTP-01 on a port of its own, renewed when it is due.

    python examples/http01.py https://acme-v02.api.letsencrypt.org/directory /etc/certs www.example.com

Run it once a day. Beside account.pem, it keeps NAME.key and NAME.pem, the chain, in that directory; an order
that did not end in time is in NAME.order, and goes on at the next run. PORT: where to answer if not on 80.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from acme_engine import (
    Client,
    Http01Responder,
    Http01Solver,
    KeyType,
    MemoryTokens,
    OrderFailed,
    PrivateKey,
    chain,
    keys,
    obtain,
    renewal,
)


class Order:
    """A Journal in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def ordered(self, order_url: str) -> None:
        """From here on a crash resumes this order."""
        write(self.path, order_url.encode())

    async def finalizing(self) -> None:
        """The CA may issue from now on; the order itself tells whether it has."""

    async def issued(self, certificate_url: str) -> None:
        """The certificate can be had."""


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole, for our eyes only."""
    partial = path.with_suffix(".partial")
    partial.touch(0o600)
    partial.write_bytes(content)
    partial.replace(path)


def key_in(path: Path) -> PrivateKey:
    """Read a key, or make it: once it is kept, every later try has the same."""
    if not path.exists():
        write(path, keys.pem(keys.generate(KeyType.ECDSA_P256)))
    return keys.load_pem(path.read_bytes())


def due(path: Path) -> bool:
    """Whether there is no certificate, or a third of its life is left."""
    if not path.exists():
        return True
    old = chain.parse(path.read_bytes())
    when = renewal.decide(not_before=old.not_before, not_after=old.not_after)
    print(f"{path.name}: until {old.not_after:%F}, renewed from {when.at:%F} on ({when.reason})")
    return when.at <= datetime.now(UTC)


async def main(directory_url: str, directory: Path, name: str) -> None:
    """Bring the certificate up to date."""
    if not due(directory / f"{name}.pem"):
        return
    order, tokens = Order(directory / f"{name}.order"), MemoryTokens()
    account, key = key_in(directory / "account.pem"), key_in(directory / f"{name}.new")
    async with (
        Client(directory_url, account_key=account) as client,
        Http01Responder(tokens, host="", port=int(os.environ.get("PORT", "80"))),
    ):
        await client.register(terms_agreed=True)
        try:
            new = await obtain(
                client,
                names=[name],
                csr=keys.csr(key, [name]),
                solver=Http01Solver(tokens),
                journal=order,
                order_url=order.path.read_text() if order.path.exists() else None,
            )
        except OrderFailed:
            order.path.unlink()  # this order is dead: the next run begins another
            raise
    write(directory / f"{name}.key", keys.pem(key))
    write(directory / f"{name}.pem", new.pem)
    for left in (f"{name}.order", f"{name}.new"):
        (directory / left).unlink()
    print(f"{name}.pem: until {new.not_after:%F}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
