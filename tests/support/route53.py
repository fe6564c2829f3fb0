"""Route 53 as moto tells it: zones, and the sets of records in them, without a provider of ours between."""

import atexit
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiobotocore.session import get_session

from tests.support.aws_kms import REGION, Moto

LOGIN = {"access_key_id": "AKIATEST", "secret_access_key": "test-secret"}


session = functools.cache(get_session)
"""One, as each reads the description of AWS from the disk."""

_RUNNING: dict[str, Moto] = {}
"""One for the process: it takes seconds to start, and forgets everything within milliseconds."""


class Route53:
    """A server with some zones."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ids: dict[str, str] = {}

    @classmethod
    async def start(cls, directory: Path, *zones: str) -> "Route53":
        """Start it, or have the one that runs forget all; then make these zones."""
        if "moto" not in _RUNNING:
            moto = await Moto.start(directory)
            atexit.register(moto.kill)
            _RUNNING["moto"] = moto
        self = cls(_RUNNING["moto"].endpoint)
        async with aiohttp.ClientSession() as http, http.post(f"{self.url}/moto-api/reset") as answer:
            assert 200 == answer.status
        async with self.client() as client:
            for zone in zones:
                made = await client.create_hosted_zone(Name=f"{zone}.", CallerReference=zone)
                self.ids[zone] = made["HostedZone"]["Id"].removeprefix("/hostedzone/")
        return self

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        async with session().create_client(
            "route53",
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ) as client:
            yield client

    async def rrset(self, name: str) -> dict[str, Any] | None:
        """Return the TXT set of a name, in whichever zone it is."""
        async with self.client() as client:
            for zone in self.ids.values():
                listed = await client.list_resource_record_sets(HostedZoneId=zone)
                for found in listed["ResourceRecordSets"]:
                    if (found["Name"], found["Type"]) == (f"{name}.", "TXT"):
                        return found
        return None

    async def txt(self, name: str) -> set[str]:
        """Return the TXT values of a name."""
        found = await self.rrset(name)
        return {r["Value"].strip('"') for r in found["ResourceRecords"]} if found else set()

    async def write(self, zone: str, name: str, *values: str, ttl_s: int = 60, **more: Any) -> None:
        """Write a TXT set, as whoever else may does."""
        records = [{"Value": f'"{value}"'} for value in values]
        rrset = {"Name": f"{name}.", "Type": "TXT", "TTL": ttl_s, "ResourceRecords": records, **more}
        async with self.client() as client:
            await client.change_resource_record_sets(
                HostedZoneId=self.ids[zone],
                ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": rrset}]},
            )
