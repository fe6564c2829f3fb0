"""A CA that dies in mid-order: the next one issues, and the first is asked again when it is back."""

import os
import signal
import time
from datetime import timedelta

import pytest

from sds_server.programs.caddy import Caddy
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.outage import tell
from tests.support.pebble import Pebble

pytestmark = pytest.mark.timeout(600)

WITHIN_S = 30.0


@pytest.fixture
async def pebble(tmp_path):
    running = Pebble(tmp_path)
    await running.ready()
    yield running
    await running.stop()


@pytest.fixture
async def caddy(tmp_path, pebble):
    directory = tmp_path / "caddy"
    directory.mkdir()
    running = Caddy(directory, responder=f"127.0.0.1:{pebble.http_port}", lifetime=timedelta(days=6))
    await running.ready()
    yield running
    await running.stop()


@pytest.fixture
async def plane(tmp_path, connect, pebble, caddy):
    made = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    made.settings["issuers"] = {
        "first": {"directory": pebble.directory_url, "ca_file": str(pebble.ca_file), "terms_agreed": True},
        "second": {"directory": caddy.directory_url, "ca_file": str(caddy.ca_file)},
    }
    made.settings["secrets"] = {
        "www": {"domains": ["www.example.test"], "issuer": "first", "fallback": ["second"]}
    }
    await made.start()
    yield made
    await made.stop()


async def test_a_ca_killed_in_mid_order_is_replaced_in_half_a_minute_until_it_is_back(plane, pebble, sql):
    async def ordered():
        return await sql.fetchval("SELECT count(*) FROM acme_order WHERE state = 'ordered'") == 1

    async def issued():
        return await sql.fetchval("SELECT issuer FROM certificate") is not None

    async def is_back():
        return await sql.fetchval("SELECT count(*) FROM issuer_trouble") == 0

    async def issued_again():
        return await sql.fetchval("SELECT count(*) FROM certificate WHERE issuer = 'first'") == 1

    await until(ordered)
    os.kill(pebble._child.pid, signal.SIGKILL)
    began = time.monotonic()
    await until(issued)
    took_s = time.monotonic() - began
    states = [tuple(row) for row in await sql.fetch("SELECT issuer, state FROM acme_order ORDER BY id")]
    audited = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'rotation.fell_back'")
    await pebble.restart()
    await until(is_back)
    code, said = await plane.command("rotate", "www", "--wait", "--timeout", "180s")
    await until(issued_again)

    tell("a CA killed in mid-order", second=f"issued after {took_s:.1f} s")
    assert took_s < WITHIN_S
    assert [("first", "abandoned"), ("second", "stored")] == states
    assert '"issuer":"second"' in audited
    assert "first: it failed 3 times in a row" in audited
    assert 0 == code, said
