"""Private keys that nobody can read: what was served is nowhere once nobody wants it any more.

Looked for in the memory of a real `certvoy serve` (all of it that a core file would hold), in a core file, in
a dump of the database, in all files that certvoy and PostgreSQL wrote, in the log and in the API's answers.
The keys are canaries: a piece of 12 bytes is found in every form in which they go through certvoy.
`CERTVOY_LONG=1` takes a thousand instead of a hundred.
"""

import asyncio
import importlib.util
import shutil
import ssl
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp
import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

import tests.xds.quiet  # noqa: F401
from sds_server.cli.api import SOCKET
from sds_server.memory import OPT_OUT
from sds_server.programs.child import free_port
from sds_server.programs.postgres import WHEEL
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import ADS
from tests.support import memory_image, pki
from tests.support.canary import Canaries
from tests.support.control_plane import HOST, SERVER_NAME, dsn, until
from tests.support.edge import IDENTITY
from tests.support.fleet import Fleet
from tests.support.outage import LONG, tell

SIZE = 1_000 if LONG else 100
UPLOADED = "fleet/uploaded"
LEFT_OPEN = 1
"""Of a connection that stays open gRPC keeps the last TLS record that it wrote, until it writes another."""

pytestmark = [pytest.mark.timeout(900 if LONG else 300)]


class Serving:
    """The control plane, its canaries and a proxy that wants them all."""

    def __init__(self, fleet, canaries):
        self.plane = fleet.plane
        self.names = [*fleet.names]
        self.canaries = canaries
        self._client = self.plane.clients.issue(uris=[IDENTITY])
        self._call = None

    def in_memory(self):
        """How often a piece of a key is in the memory of the process, by its form."""
        found = Counter()
        for _region, _address, data in memory_image.read(self.plane.child.pid):
            found.update(form for _at, form in self.canaries.find(data))
        return found

    async def ask(self, method, path, **body):
        """Ask the API by its socket; the answer is looked through."""
        connector = aiohttp.UnixConnector(str(self.plane.directory / "state" / SOCKET))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://certvoy{path}", **body) as response,
        ):
            answer = await response.read()
        assert response.status < HTTPStatus.MULTIPLE_CHOICES, answer
        assert not any(self.canaries.find(answer))

    async def upload(self):
        """Bring one more pair over the API."""
        self.names.append(UPLOADED)
        pair = pki.authority("R").intermediate("I").issue(dns=["a.fleet.test"], key=self.canaries.key())
        body = {"chain": pair.chain_pem.decode(), "private_key": pair.key_pem.decode()}
        await self.ask("PUT", f"/v1/secrets/{UPLOADED.replace('/', '%2F')}/certificate", json=body)

    @asynccontextmanager
    async def subscribed(self):
        """Have all Secrets over one stream; the connection stays open for the block."""
        credentials = grpc.ssl_channel_credentials(
            self.plane.clients.pem, self._client.key_pem, self._client.chain_pem
        )
        target, options = f"{HOST}:{self.plane.sds_port}", [("grpc.ssl_target_name_override", SERVER_NAME)]
        async with grpc.aio.secure_channel(target, credentials, options) as channel:
            self._call = channel.stream_stream(f"/{ADS}/DeltaAggregatedResources")()
            await self._say(node=Node(id="edge-1"), resource_names_subscribe=self.names)
            got = set()
            while len(got) < len(self.names):
                answer = pb.DeltaDiscoveryResponse.FromString(await self._call.read())
                got |= {resource.name for resource in answer.resources}
                await self._say(response_nonce=answer.nonce)
            yield self._call
            self._call.cancel()

    async def unsubscribe(self):
        await self._say(resource_names_unsubscribe=self.names)

    async def fetch(self):
        """Have one Secret over REST: another way out."""
        directory = self.plane.directory
        certificate, key = self._client.write(directory, "rest")
        context = ssl.create_default_context(cafile=self.plane.client_ca)
        context.check_hostname = False
        context.load_cert_chain(certificate, key)
        body = {"node": {"id": "edge-2"}, "resource_names": [self.names[0]], "type_url": TYPE_URL}
        url = f"https://{self.plane.settings['sds']['rest']}/v3/discovery:secrets"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.post(url, json=body) as response,
        ):
            has_key = "private_key" in await response.text()
        assert has_key

    async def _say(self, **fields):
        await self._call.write(pb.DeltaDiscoveryRequest(type_url=TYPE_URL, **fields).SerializeToString())


@pytest.fixture
def canaries():
    return Canaries()


@pytest.fixture
async def serving(canaries, connect, database, sql, tmp_path):
    """Not started: how, the tests say."""
    fleet = await Fleet.filled(tmp_path, connect, database, sql, size=SIZE, new_key=canaries.key)
    fleet.plane.program = [sys.executable, "-m", "tests.support.forgetful"]
    fleet.plane.settings["sds"]["rest"] = f"{HOST}:{free_port()}"
    yield Serving(fleet, canaries)
    await fleet.stop()


def in_files(directory, canaries):
    """Which files below the directory hold a piece of a key."""
    return [
        str(path)
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and any(canaries.find(path.read_bytes()))
    ]


async def test_no_key_is_anywhere_once_nobody_wants_it(serving, canaries, connect, sql, tmp_path):
    plane = serving.plane
    await plane.start()
    await serving.upload()
    await serving.fetch()

    async with serving.subscribed():
        wanted = serving.in_memory()
        await serving.unsubscribe()

        async def forgotten():
            return serving.in_memory()["end, base64url"] <= LEFT_OPEN

        await until(forgotten)
        open_still = serving.in_memory()

    async def gone():
        return not serving.in_memory()

    await until(gone)
    pid = plane.child.pid
    core = await core_of(pid, tmp_path)
    dump = await dumped(connect)
    data = Path(await sql.fetchval("SHOW data_directory"))
    await sql.execute("CHECKPOINT")
    await serving.ask("GET", "/v1/secrets")
    await serving.ask("GET", "/v1/audit")
    found = {
        "core": [*canaries.find(core)],
        "dump": [*canaries.find(dump)],
        "log": [*canaries.find(plane.log().encode())],
        "files": in_files(tmp_path / "state", canaries) + in_files(data, canaries),
        "environment": [*canaries.find(Path(f"/proc/{pid}/environ").read_bytes())],
    }

    tell(
        f"{len(serving.names)} keys served",
        found_while_subscribed=sum(wanted.values()),
        while_the_connection_is_open=sum(open_still.values()),
        in_a_core_of_mib=len(core) >> 20,
    )
    assert len(serving.names) <= sum(wanted.values())
    assert {"core": [], "dump": [], "log": [], "files": [], "environment": []} == found
    assert '"memory.guarded"' in plane.log()


async def test_a_sealed_replica_has_no_key_in_its_memory_and_unsealed_it_serves(serving):
    await serving.plane.start()
    async with serving.subscribed() as call:
        code, said = await serving.plane.command("seal", "--reason", "somebody is on this machine")
        ended = await call.code()

    async def gone():
        return not serving.in_memory()

    await until(gone)
    unsealed, _ = await serving.plane.command("unseal")
    async with serving.subscribed():
        served = sum(serving.in_memory().values())

    assert (0, grpc.StatusCode.UNAVAILABLE, 0) == (code, ended, unsealed), said
    assert served >= len(serving.names)


async def test_without_the_allocators_settings_keys_are_left(serving):
    """The control: what the look above finds where nothing is overwritten."""
    serving.plane.launch(env={OPT_OUT: "off"})

    async def answers():
        return (serving.plane.directory / "ready").exists()

    await serving.plane.child.ready(answers, timeout_s=180)
    await serving.upload()
    async with serving.subscribed():
        pass
    await serving.ask("PUT", "/v1/seal", json={"reason": "a test"})
    left = serving.in_memory()

    tell(f"{len(serving.names)} keys served without scrub on free", left=sum(left.values()), forms=dict(left))
    assert sum(left.values()) > 0
    assert '"memory.unguarded"' in serving.plane.log()


async def core_of(pid, directory):
    """Return a core file of the process: gdb's, or where that is not here, what would be in one."""
    if shutil.which("gcore") is None:
        return b"".join(data for _region, _address, data in memory_image.read(pid))
    process = await asyncio.create_subprocess_exec(
        "gcore", "-a", "-o", directory / "core", str(pid),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    core = directory / f"core.{pid}"
    assert core.exists(), said
    content = core.read_bytes()
    core.unlink()
    return content


async def dumped(connect):
    """Return the database as pg_dump writes it."""
    spec = importlib.util.find_spec(WHEEL)  # imported, it warns
    program = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / "pg_dump"
    process = await asyncio.create_subprocess_exec(program, dsn(connect), stdout=subprocess.PIPE)
    dump, _ = await process.communicate()
    assert b"CREATE TABLE public.key_material" in dump
    return dump
