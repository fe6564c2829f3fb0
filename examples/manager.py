"""Issue a certificate from Python, wait until two proxies are proved to serve it, and rotate it.

Run beside `certvoy serve`, with its configuration:

    python examples/manager.py certvoy.yaml letsencrypt www www.example.com edge-1 edge-2
"""

import asyncio
import sys
from pathlib import Path

from sds_server import log
from sds_server.config.certvoy_yaml import load
from sds_server.manager import CertificateManager


async def main(config: str, provider: str, secret: str, domain: str, *targets: str) -> None:
    """Go through the life of a certificate."""
    async with CertificateManager.open(load(Path(config))) as manager:
        record = await manager.issue_certificate([domain], acme_provider=provider, name=secret)
        await manager.distribute_certificate(record.id, targets)
        print(f"{record.domain}: {record.fingerprint} is served until {record.not_after:%F}")

        record = await manager.rotate_certificate(record.id)
        await manager.distribute_certificate(record.id, targets)
        print(f"{record.domain}: {record.fingerprint} took its place")


if __name__ == "__main__":
    log.configure(level="warning")
    asyncio.run(main(*sys.argv[1:]))
