"""Every key goes to another KEK, or version, while pairs are pushed and streams come and go all the time.

No push fails, no stream goes without its secret, a killed command goes on. From file to file a thousand keys,
in OpenBao three hundred; with CERTVOY_LONG=1 ten thousand each.
"""

import asyncio
import json
import time
from uuid import UUID, uuid4

import aiohttp
import grpc
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.inventory import deployment, sealed_keys
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.keys.vault import VaultKms
from sds_server.keys.vault_token import TokenFile
from sds_server.model import KeyId
from sds_server.programs.child import Child, free_port
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import SDS
from tests.support.control_plane import HOST, SERVER_NAME, ControlPlane, dsn, until
from tests.support.edge import IDENTITY, Edge, grants
from tests.support.openbao import OpenBao
from tests.support.outage import LONG, tell
from tests.support.pki import authority, new_key

COUNT = 10_000 if LONG else 1_000
IN_OPENBAO = 10_000 if LONG else 300
AT_ONCE = 16
"""Of OpenBao, while the inventory is filled."""

PUSHED_WITHIN_S = 60.0
"""Generous: on a machine with ten times the work that it can do one took 9.5 s."""

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


@pytest.fixture
async def bao(tmp_path):
    (tmp_path / "bao").mkdir()
    bao = await OpenBao.start(tmp_path / "bao")
    await bao.key("certvoy")
    yield bao
    await bao.stop()


async def fill(database, kms, count=COUNT):
    """Put that many keys into the inventory, each sealed for real."""
    identity, _ = await deployment.identify(database)
    sealer = Sealer(kms, deployment=identity, clock=SystemClock())
    key = new_key()
    content, spki = keys.pkcs8(key), keys.spki_sha256(key.public_key())
    for first in range(0, count, AT_ONCE):
        made = await asyncio.gather(
            *(
                sealer.seal(content, key_id=KeyId(uuid4()), purpose="leaf", spki_sha256=spki)
                for _ in range(first, min(first + AT_ONCE, count))
            )
        )
        async with database.transaction() as tx:
            for sealed in made:
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


class Reconnects:
    """A client that connects anew for each look, as proxies do that restart one after the other."""

    def __init__(self, plane, directory):
        chain, key = plane.clients.issue(uris=[IDENTITY]).write(directory, "reconnects")
        self._credentials = grpc.ssl_channel_credentials(
            plane.client_ca.read_bytes(), key.read_bytes(), chain.read_bytes()
        )
        self._port = plane.sds_port
        self.streams, self.failed = 0, []

    async def one(self):
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.ssl_target_name_override", SERVER_NAME),
        )
        request = pb.DeltaDiscoveryRequest(
            node=Node(id="reconnects"), type_url=TYPE_URL, resource_names_subscribe=["www"]
        )
        address = f"{HOST}:{self._port}"
        async with grpc.aio.secure_channel(address, self._credentials, options) as channel:
            call = channel.stream_stream(f"/{SDS}/DeltaSecrets")()
            await call.write(request.SerializeToString())
            answer = pb.DeltaDiscoveryResponse.FromString(await call.read())
            call.cancel()
        assert ["www"] == [resource.name for resource in answer.resources]

    async def go_on(self):
        while True:
            try:
                async with asyncio.timeout(PUSHED_WITHIN_S):
                    await self.one()
            except (AssertionError, TimeoutError, grpc.RpcError) as e:
                self.failed.append(repr(e))
            self.streams += 1
            await asyncio.sleep(0.05)  # two cores are there for the rest, too


async def rewrapped_under_load(plane, sql, tmp_path, count, left):
    """Rewrap by a command that is killed once and called again, under load; return what was seen.

    ``left``: how many keys are still to be done.
    """
    edge = Edge(tmp_path, plane)
    pushes, reconnects = Pushes(plane, edge), Reconnects(plane, tmp_path)
    await pushes.upload()
    await edge.start()

    async def begun():
        return count > await left()

    async def pushed_since():
        return len(pushes.seconds) >= enough

    try:
        load = [asyncio.create_task(pushes.go_on()), asyncio.create_task(reconnects.go_on())]
        await asyncio.sleep(0)
        began = time.monotonic()
        command = [*plane.program, "kms", "rewrap", "--config", plane.config]
        killed = Child("rewrap", command, log=tmp_path / "rewrap.log", cwd=plane.home)
        await until(begun)
        killed.kill()
        at_death = await left()
        code, said = await plane.command("kms", "rewrap")
        seconds = time.monotonic() - began
        enough = len(pushes.seconds) + 2
        await until(pushed_since)
        for task in load:
            task.cancel()
    finally:
        await edge.stop()
    tell(
        f"{count} keys rewrapped",
        seconds=f"{seconds:.1f}",
        a_second=f"{count / seconds:.0f}",
        left_at_the_kill=at_death,
        pushes=len(pushes.seconds),
        slowest=f"{max(pushes.seconds):.2f} s",
        streams=reconnects.streams,
    )
    assert 0 == code, said
    assert " a second" in said, "how fast it is"
    assert 0 < at_death < count
    assert [] == pushes.failed
    assert [] == reconnects.failed
    assert reconnects.streams > 0


async def test_keys_are_rewrapped_under_pushes_and_after_a_kill(plane, database, sql, tmp_path):
    await plane.stop()
    old = LocalKms(tmp_path / "old")
    await fill(database, old)
    plane.settings["kms"] = {
        "key_file": str(tmp_path / "new"),
        "previous": [{"provider": "local", "key_file": str(tmp_path / "old")}],
    }
    await plane.start()
    await rewrapped_under_load(plane, sql, tmp_path, COUNT, lambda: sql.fetchval(LEFT, old.kek_uri))
    _, status = await plane.command("kms", "status", "--json")
    await plane.stop()
    plane.settings["kms"] = {"key_file": str(tmp_path / "new")}
    await plane.start()
    opened = await open_all(database, LocalKms(tmp_path / "new"))

    assert COUNT < opened
    assert 0 == json.loads(status)["behind"]


async def test_keys_go_to_a_new_version_of_the_kek_in_openbao(plane, bao, database, sql, tmp_path):
    """The KMS rewraps inside itself; no data key comes out."""
    await plane.stop()
    (tmp_path / "token").write_text(bao.root)
    settings = {"address": bao.address, "key": "certvoy", "ca_file": bao.ca_file}
    kms = VaultKms(login=TokenFile(tmp_path / "token"), **settings)
    plane.settings["kms"] = {
        "provider": "vault",
        "token_file": str(tmp_path / "token"),
        **{name: str(value) for name, value in settings.items()},
        "previous": [{"provider": "local", "key_file": str(tmp_path / "old")}],
    }
    await fill(database, kms, IN_OPENBAO)
    await bao.rotate("certvoy")
    await plane.start()
    behind = "SELECT count(*) FROM key_material WHERE kek_version = 1 AND kek_uri = $1"
    await rewrapped_under_load(plane, sql, tmp_path, IN_OPENBAO, lambda: sql.fetchval(behind, kms.kek_uri))
    await bao.ask("POST", "transit/keys/certvoy/config", {"min_decryption_version": 2})
    opened = await open_all(database, kms)
    await kms.close()

    assert IN_OPENBAO < opened


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
