"""PowerDNS Authoritative Server on loopback, with its HTTP API and SQLite."""

import json
import sqlite3
from pathlib import Path

import aiohttp
import dns.asyncquery
import dns.message
import pytest

from acme_engine.dns.servers import values
from sds_server.programs.child import Child, free_port
from tests.support import debian
from tests.support.dns_apis import SECRET

HOST = "127.0.0.1"

_CONFIG = """\
launch=gsqlite3
gsqlite3-database={directory}/zones.sqlite
module-dir={modules}
socket-dir={directory}
daemon=no
guardian=no
security-poll-suffix=
local-address={host}
local-port={port}
api=yes
api-key={key}
webserver=yes
webserver-address={host}
webserver-port={api_port}
"""


class Pdns:
    """A running server."""

    def __init__(self, directory: Path) -> None:
        program, root = debian.program("pdns_server", of="pdns"), debian.unpack("pdns")
        (modules,) = root.glob("usr/lib/*-linux-gnu/pdns")
        schema = root / "usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql"
        directory.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(directory / "zones.sqlite") as database:
            database.executescript(schema.read_text())
        database.close()
        self.port, api_port = free_port(), free_port()
        self.url = f"http://{HOST}:{api_port}"
        (directory / "pdns.conf").write_text(
            _CONFIG.format(
                directory=directory, modules=modules, host=HOST, port=self.port, api_port=api_port, key=SECRET
            )
        )
        self._child = Child(
            "pdns",
            [program, f"--config-dir={directory}"],
            log=directory / "pdns.log",
            env=debian.environment("pdns"),
        )

    @classmethod
    async def start(cls, directory: Path, *zones: str, kind: str = "Native") -> "Pdns":
        """Start it with these zones; skips the test, with the reason, where it cannot be had."""
        try:
            pdns = cls(directory)
        except debian.Unavailable as e:
            pytest.skip(str(e))
        await pdns._child.ready(pdns._answers)
        for zone in zones:
            made = {"name": f"{zone}.", "kind": kind, "nameservers": [f"ns1.{zone}."]}
            assert 201 == (await pdns._ask("POST", "/zones", made))[0]
        return pdns

    async def stop(self) -> None:
        await self._child.stop()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def txt(self, name: str) -> set[str]:
        """Return the TXT values that it serves."""
        question = dns.message.make_query(name, "TXT", flags=0)
        return set(values(await dns.asyncquery.tcp(question, HOST, timeout=5, port=self.port)))

    async def write(self, zone: str, name: str, records: list[dict], *, ttl_s: int = 60) -> None:
        """Write a TXT set, as whoever else has the key does."""
        rrset = {"name": f"{name}.", "type": "TXT", "changetype": "REPLACE", "ttl": ttl_s, "records": records}
        assert 204 == (await self._ask("PATCH", f"/zones/{zone}.", {"rrsets": [rrset]}))[0]

    async def rrset(self, zone: str, name: str) -> dict:
        """Return a TXT set as the API shows it."""
        _, found = await self._ask("GET", f"/zones/{zone}.?rrset_name={name}.&rrset_type=TXT", None)
        (rrset,) = found["rrsets"]
        return rrset

    async def _answers(self) -> bool:
        try:
            return 200 == (await self._ask("GET", "", None))[0]
        except aiohttp.ClientError:
            return False

    async def _ask(self, method: str, path: str, body: object) -> tuple[int, dict]:
        headers = {"X-API-Key": SECRET}
        url = f"{self.url}/api/v1/servers/localhost{path}"
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, url, json=body, headers=headers) as reply,
        ):
            return reply.status, json.loads(await reply.read() or b"{}")
