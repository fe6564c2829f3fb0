"""Every key goes to another KEK while pairs are pushed all the time: no push fails, a killed command goes on.

A thousand keys; with CERTVOY_LONG=1 ten thousand.
"""

import asyncio
import json
import time
from uuid import UUID, uuid4

import aiohttp
import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.inventory import deployment, sealed_keys
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.model import KeyId
from sds_server.programs.child import Child, free_port
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.outage import LONG, tell
from tests.support.pki import authority, new_key

COUNT = 10_000 if LONG else 1_000
PUSHED_WITHIN_S = 10.0
LEFT = "SELECT count(*) FROM key_material WHERE kek_uri = $1"
SITES = authority("Bought root")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def plane(tmp_path, connect):
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings |= {"secrets": {}, "grants": grants("www"), "kms": {"key_file": str(tmp_path / "old")}}
    await plane.start()
    yield plane
    await plane.stop()


async def fill(database, kms):
    """Put that many keys into the inventory, each sealed for real."""
    identity, _ = await deployment.identify(database)
    sealer = Sealer(kms, deployment=identity, clock=SystemClock())
    key = new_key()
    async with database.transaction() as tx:
        for _ in range(COUNT):
            sealed = await sealer.seal(
                keys.pkcs8(key),
                key_id=KeyId(uuid4()),
                purpose="leaf",
                spki_sha256=keys.spki_sha256(key.public_key()),
            )
            await sealed_keys.insert(tx, sealed)


class Pushes:
    """One pair after the other, each looked for at the Envoy."""

    def __init__(self, plane, edge):
        self._plane, self._edge = plane, edge
        self.seconds, self.failed = [], []

    async def one(self):
        began = time.monotonic()
        try:
            leaf = await self.upload()
            async with asyncio.timeout(PUSHED_WITHIN_S):
                while await self._edge.served() != leaf:
                    await asyncio.sleep(0.02)
        except (AssertionError, TimeoutError) as e:
            self.failed.append(repr(e))
        self.seconds.append(time.monotonic() - began)

    async def upload(self):
        pair = SITES.issue(["www.example.test"])
        body = {"chain": pair.chain_pem.decode(), "private_key": pair.key_pem.decode()}
        connector = aiohttp.UnixConnector(f"{self._plane.settings['state_dir']}/admin.sock")
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.put("http://certvoy/v1/secrets/www/certificate", json=body) as response,
        ):
            assert response.status < 300, await response.text()
        return pair.certificate.fingerprint(SHA256()).hex()

    async def go_on(self):
        while True:
            await self.one()


async def test_keys_are_rewrapped_under_pushes_and_after_a_kill(plane, database, sql, tmp_path):
    await plane.stop()
    old = LocalKms(tmp_path / "old")
    await fill(database, old)
    plane.settings["kms"] = {
        "key_file": str(tmp_path / "new"),
        "previous": [{"provider": "local", "key_file": str(tmp_path / "old")}],
    }
    await plane.start()
    edge = Edge(tmp_path, plane)
    pushes = Pushes(plane, edge)
    await pushes.upload()
    await edge.start()

    async def begun():
        return COUNT > await sql.fetchval(LEFT, old.kek_uri)

    async def pushed_since():
        return len(pushes.seconds) >= enough

    try:
        load = asyncio.create_task(pushes.go_on())
        await asyncio.sleep(0)
        began = time.monotonic()
        command = [*plane.program, "kms", "rewrap", "--config", plane.config]
        killed = Child("rewrap", command, log=tmp_path / "rewrap.log", cwd=plane.home)
        await until(begun)
        killed.kill()
        at_death = await sql.fetchval(LEFT, old.kek_uri)
        code, said = await plane.command("kms", "rewrap")
        seconds = time.monotonic() - began
        enough = len(pushes.seconds) + 2
        await until(pushed_since)
        load.cancel()
    finally:
        await edge.stop()
    _, status = await plane.command("kms", "status", "--json")
    await plane.stop()
    plane.settings["kms"] = {"key_file": str(tmp_path / "new")}
    await plane.start()
    opened = await open_all(database, LocalKms(tmp_path / "new"))

    tell(
        f"{COUNT} keys rewrapped",
        seconds=f"{seconds:.1f}",
        left_at_the_kill=at_death,
        pushes=len(pushes.seconds),
        slowest=f"{max(pushes.seconds):.2f} s",
    )
    assert 0 == code, said
    assert 0 < at_death < COUNT
    assert [] == pushes.failed
    assert COUNT < opened
    assert 0 == json.loads(status)["behind"]


async def open_all(database, kms):
    """Open every key by this KEK alone; return how many there are."""
    identity, _ = await deployment.identify(database)
    sealer = Sealer(kms, deployment=identity, clock=SystemClock())
    found = await sealed_keys.behind(
        database, after=KeyId(UUID(int=0)), kek_uri="", kek_version=0, every=True, limit=COUNT * 2
    )
    for sealed in found:
        await sealer.open(sealed)
    return len(found)
