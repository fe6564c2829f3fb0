"""Let's Encrypt's test CA, strict and hostile: it refuses nonces, sleeps, and forgets nothing.

Its newOrder can deadlock when several come at once, in every version: keep them serial in tests.
"""

import asyncio
import json
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from acme_engine import Eab
from sds_server.programs.child import Child, free_port
from tests.support import debian, pki

NONCE_REJECT_PERCENT = 50
VALIDATION_SLEEP_S = 2
"""It sleeps a whole number of seconds below this before each validation."""

LIFETIME_S = 90 * 24 * 3600


class Pebble:
    """A running Pebble and its DNS server, which resolves every name to 127.0.0.1."""

    def __init__(
        self,
        directory: Path,
        *,
        eab: Eab | None = None,
        http_port: int | None = None,
        kind: bool = False,
        nonce_reject_percent: int | None = None,
        dns_server: str | None = None,
        authz_reuse_percent: int = 0,
    ) -> None:
        """Start both; ``http_port`` is where it validates HTTP-01. `ready` says when they answer.

        ``kind``: it never sleeps, for many orders, and refuses no nonce, or ``nonce_reject_percent`` of them.
        ``dns_server``: the host:port that it asks instead of its own DNS server. ``authz_reuse_percent``: so
        many of its orders need no proof of a name that was proved before.
        """
        pebble = debian.program("pebble", of="pebble")
        challtestsrv = debian.program("pebble-challtestsrv", of="pebble")
        port, management, dns, dns_management = (free_port() for _ in range(4))
        self.http_port = http_port or free_port()
        self.tls_port = free_port()
        self.eab = eab
        self.directory_url = f"https://localhost:{port}/dir"
        self._management_url = f"https://localhost:{management}"
        self._log = directory / "pebble.log"
        if nonce_reject_percent is None:
            nonce_reject_percent = 0 if kind else NONCE_REJECT_PERCENT
        authority = pki.authority("Pebble's API")
        self.ca_file = authority.write(directory / "ca.pem")
        chain, key = authority.issue(["localhost"], ips=["127.0.0.1"]).write(directory, "api")
        config = directory / "pebble.json"
        config.write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{port}",
                        "managementListenAddress": f"127.0.0.1:{management}",
                        "certificate": str(chain),
                        "privateKey": str(key),
                        "httpPort": self.http_port,
                        "tlsPort": self.tls_port,
                        "ocspResponderURL": "",
                        "certificateValidityPeriod": LIFETIME_S,
                        "externalAccountBindingRequired": eab is not None,
                        "externalAccountMACKeys": {eab.key_id: eab.hmac_key.reveal()} if eab else {},
                    }
                }
            )
        )
        self._dns = Child(
            "pebble-challtestsrv",
            [
                challtestsrv,
                *("-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{dns_management}"),
                # Its defaults bind every interface.
                *("-http01", "", "-https01", "", "-tlsalpn01", ""),
                *("-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""),
            ],
            log=directory / "challtestsrv.log",
        )
        self._start = lambda: Child(
            "pebble",
            [pebble, "-config", config, "-dnsserver", dns_server or f"127.0.0.1:{dns}", "-strict"],
            log=self._log,
            env={
                "PEBBLE_WFE_NONCEREJECT": str(nonce_reject_percent),
                **({"PEBBLE_VA_NOSLEEP": "1"} if kind else {"PEBBLE_VA_SLEEPTIME": str(VALIDATION_SLEEP_S)}),
                "PEBBLE_AUTHZREUSE": str(authz_reuse_percent),
                "PEBBLE_ALTERNATE_ROOTS": "1",
            },
        )
        self._child = self._start()

    async def ready(self) -> None:
        """Wait until it hands out its directory."""
        await self._child.ready(self._answers)

    async def restart(self) -> None:
        """Let it forget all that it knew: accounts, orders, its own CA."""
        await self._child.stop()
        self._child = self._start()
        await self.ready()

    async def stop(self) -> None:
        """Stop both."""
        await self._child.stop()
        await self._dns.stop()

    async def root(self, number: int = 0) -> x509.Certificate:
        """Return a root of what it issues, made anew at each start; there are two."""
        return x509.load_pem_x509_certificate(await self._get(f"{self._management_url}/roots/{number}"))

    async def revocation(self, serial_number: str) -> tuple[str, int | None]:
        """Return the status of a certificate that it issued, and the reason if it is revoked."""
        url = f"{self._management_url}/cert-status-by-serial/{serial_number}"
        told = json.loads(await self._get(url))
        return told["Status"], told.get("Reason")

    def orders(self) -> int:
        """Count the orders it ever made."""
        return len(re.findall(r"Added order", self._log.read_text()))

    def issued(self) -> int:
        """Count the certificates it ever issued."""
        return len(re.findall(r"Issued certificate serial", self._log.read_text()))

    def requests(self, method: str) -> int:
        """Count the requests of a method that it answered, its directory's and its management's too."""
        return self._log.read_text().count(f" {method} /")

    async def _answers(self) -> bool:
        try:
            return bool(await self._get(self.directory_url))
        except aiohttp.ClientError:
            return False

    async def _get(self, url: str) -> bytes:
        tls = ssl.create_default_context(cafile=self.ca_file)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
            session.get(url) as response,
        ):
            return await response.read()


def start(directory: Path, **settings: Any) -> Pebble:
    """Start one and wait for it; skips the test, with the reason, where Pebble cannot be had."""
    try:
        pebble = Pebble(directory, **settings)
    except debian.Unavailable as e:
        pytest.skip(str(e))
    asyncio.run(pebble.ready())
    return pebble
