"""Each kind of key pair, certified by three real CAs."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from acme_engine import Client, KeyType, keys
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support import acme2certifier, pebble
from tests.support.acme import MemoryJournal, Orderer, Tokens, responding
from tests.support.bind import Bind, Zone

pytestmark = [pytest.mark.debian, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["pebble", "caddy", "acme2certifier"])
def server(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    bind = None
    match request.param:
        case "pebble":
            running = pebble.start(directory, kind=True)
        case "caddy":
            port = free_port()
            running = Caddy(directory, responder=f"127.0.0.1:{port}")
            running.http_port = port
            asyncio.run(running.ready())
        case "acme2certifier":
            bind = asyncio.run(Bind.start(directory / "bind", [Zone("example.test")]))
            running = acme2certifier.start(directory, dns_port=bind.port)
    yield running
    asyncio.run(running.stop())
    if bind is not None:
        asyncio.run(bind.stop())


@asynccontextmanager
async def account(server):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(server.directory_url, account_key=key, ca_file=server.ca_file) as client:
        await client.register(terms_agreed=True, contact=["mailto:ops@example.test"])
        yield client


@pytest.mark.parametrize("kind", list(KeyType))
async def test_each_kind_of_key_is_certified(server, kind):
    tokens, name = Tokens(), f"{kind}.example.test"
    async with account(server) as client, responding(tokens, port=server.http_port):
        orderer = Orderer(client, [name], tokens, key_type=kind)
        got = await orderer.obtain(MemoryJournal())

    assert kind is keys.type_of(got.leaf.public_key())
    assert keys.spki_sha256(orderer.key.public_key()) == got.spki_sha256
