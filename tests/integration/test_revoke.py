# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""Revocation from the command to the CA: a control plane as a process, and Pebble."""

import asyncio
import json

import pytest

from acme_engine import keys
from sds_server.inventory import key_requests
from sds_server.inventory.key_requests import KeyRequest
from sds_server.model import Identity, Peer
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.pebble import start

pytestmark = pytest.mark.debian

WEB_1 = "spiffe://example.test/web-1"


@pytest.fixture(scope="module")
def pebble(tmp_path_factory):
    running = start(tmp_path_factory.mktemp("pebble"))
    yield running
    asyncio.run(running.stop())


@pytest.fixture
def holder(request):
    """Who makes the keys of www."""
    return getattr(request, "param", "certvoy")


@pytest.fixture
async def plane(pebble, connect, database, sql, tmp_path, holder):
    """Serving generation 1 of www."""
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    plane.issuer(pebble.directory_url, pebble.ca_file, terms_agreed=True)
    plane.settings["secrets"]["www"]["key_holder"] = holder
    plane.settings["grants"] = [{"identity": WEB_1, "names": ["www"]}]

    async def completed():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NOT NULL") == 1

    await plane.start()
    try:
        if holder == "target":
            await bring(database)
        await until(completed)
        yield plane
    finally:
        await plane.stop()


async def bring(database):
    """Bring a request, as the agent of the target does."""
    declared, _ = await key_requests.waiting(database, "www")
    key = keys.generate(keys.KeyType.ECDSA_P256)
    request = KeyRequest(keys.csr(key, declared.domains), keys.spki_sha256(key.public_key()))
    peer = Peer(Identity(WEB_1), "web-1")
    await key_requests.bring(database, declared, peer, request, actor="proxy:web-1")


async def serial_numbers(sql):
    return [row[0] for row in await sql.fetch("SELECT serial_number FROM certificate ORDER BY generation")]


async def test_the_successor_is_issued_first_and_then_the_old_one_is_revoked(plane, pebble, sql):
    code, printed = await plane.command("revoke", "www", "--wait")
    first, second = await serial_numbers(sql)

    assert 0 == code, printed
    assert "www, generation 1: the CA revoked it at " in printed
    assert ("Revoked", 4) == await pebble.revocation(first)
    assert ("Valid", None) == await pebble.revocation(second)
    assert ["revoked", "active"] == [
        row[0] for row in await sql.fetch("SELECT status FROM certificate ORDER BY generation")
    ]


async def test_a_key_that_is_lost_is_revoked_at_once_also_by_another_account(plane, pebble, sql):
    """The account that ordered is gone: the next one may not revoke, and the certificate's key may."""
    await plane.stop()
    await sql.execute("DELETE FROM acme_account")
    await plane.start()

    code, printed = await plane.command(
        "revoke", "www", "--reason", "keyCompromise", "--now", "--wait", "--json"
    )
    why_code, why = await plane.command("why", "www")
    first = (await serial_numbers(sql))[0]

    assert 0 == code, printed
    assert "revoked" == json.loads(printed[printed.index("{") :])["revocation"]["state"]
    assert ("Revoked", 1) == await pebble.revocation(first)
    assert 0 == why_code
    assert "revocation of generation 1 (keyCompromise): revoked" in why


@pytest.mark.parametrize("holder", ["target"], indirect=True)
@pytest.mark.parametrize(("reason", "code"), [("superseded", 4), ("keyCompromise", 1)])
async def test_of_a_key_that_its_target_has_the_account_asks(plane, pebble, sql, reason, code):
    exit_code, printed = await plane.command("revoke", "www", "--reason", reason, "--now", "--wait")
    (first, *_) = await serial_numbers(sql)

    assert 0 == exit_code, printed
    assert ("Revoked", code) == await pebble.revocation(first)


@pytest.mark.parametrize("holder", ["target"], indirect=True)
async def test_of_a_key_that_its_target_has_another_account_hears_the_ca_s_refusal(plane, sql):
    await plane.stop()
    await sql.execute("DELETE FROM acme_account")
    await plane.start()
    await plane.command("revoke", "www", "--reason", "keyCompromise", "--now")

    async def told():
        _, said = await plane.command("why", "www")
        return "the CA said: urn:ietf:params:acme:error:unauthorized" in said

    await until(told)
