"""Revocation from the command to the CA: a control plane as a process, and Pebble."""

import asyncio
import json

import pytest

from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.pebble import start

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def pebble(tmp_path_factory):
    running = start(tmp_path_factory.mktemp("pebble"))
    yield running
    asyncio.run(running.stop())


@pytest.fixture
async def plane(pebble, connect, sql, tmp_path):
    """Serving generation 1 of www."""
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    plane.issuer(pebble.directory_url, pebble.ca_file, terms_agreed=True)
    await plane.start()

    async def completed():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NOT NULL") == 1

    await until(completed)
    yield plane
    await plane.stop()


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
