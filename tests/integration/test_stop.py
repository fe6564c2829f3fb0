"""SIGTERM in the middle of an order: what proves names is taken away, the order goes on at the next start.

Within 10 s, the grace that `docker stop` gives.
"""

import asyncio
import socket
import time

import pytest

from tests.support.bind import KEY_SECRET, Bind, Zone
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.dns_apis import SECRET, Webhook
from tests.support.outage import SLOW_MACHINE_S
from tests.support.pebble import Pebble

pytestmark = [pytest.mark.debian, pytest.mark.timeout(600)]

GRACE_S = 10 + SLOW_MACHINE_S
OWNER = "_acme-challenge.www.example.test"


class Silence:
    """Takes what a CA sends when it validates, and answers only once it is let."""

    def __init__(self):
        self.asked = asyncio.Event()
        self.pass_on_to = None

    async def open(self):
        self.server = await asyncio.start_server(self._take, HOST, 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _take(self, reader, writer):
        self.asked.set()
        try:
            if self.pass_on_to is None:
                await reader.read()
                return
            theirs, ours = await asyncio.open_connection(HOST, self.pass_on_to)
            ours.write(await reader.readuntil(b"\r\n\r\n"))
            writer.write(await theirs.read())
            ours.close()
        finally:
            writer.close()

    async def shut(self):
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def silence():
    silence = Silence()
    await silence.open()
    yield silence
    await silence.shut()


async def stopped(plane):
    """Stop it as an operator does; return its exit code and how long it took."""
    began = time.monotonic()
    code = await plane.stop()
    return code, time.monotonic() - began


async def orders(sql):
    return [(row["url"], row["state"]) for row in await sql.fetch("SELECT url, state FROM acme_order")]


def plane_of(tmp_path, connect, pebble, **more):
    """One that nobody takes over from before its Lease of ten minutes ends, unless it gives that back."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(pebble.directory_url, pebble.ca_file, terms_agreed=True, **more)
    plane.settings["rotation"]["lease"] = "10m"
    return plane


async def test_stopped_while_the_ca_looks_the_token_goes_and_the_next_start_ends_the_same_order(
    silence, connect, sql, tmp_path
):
    pebble = Pebble(tmp_path, kind=True, http_port=silence.port)
    await pebble.ready()
    plane = plane_of(tmp_path, connect, pebble)

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate WHERE status = 'active'") == 1

    try:
        await plane.start()
        async with asyncio.timeout(240):
            await silence.asked.wait()
        begun = await sql.fetchval("SELECT count(*) FROM challenge_token")
        code, took_s = await stopped(plane)
        left = await sql.fetchval("SELECT count(*) FROM challenge_token")
        (kept,) = await orders(sql)
        silence.pass_on_to = plane.http01_port
        await plane.start()
        await until(issued)  # within the Lease: it was given back
        (again,) = await orders(sql)
    finally:
        await plane.stop()
        await pebble.stop()

    assert (0, 1, 0) == (code, begun, left)
    assert took_s < GRACE_S
    assert "ordered" == kept[1]
    assert (kept[0], "stored") == again
    assert (1, 1) == (pebble.orders(), pebble.issued())


async def test_stopped_while_the_ca_looks_the_value_is_out_of_its_zone(connect, sql, tmp_path):
    bind = await Bind.start(tmp_path / "bind", [Zone("example.test")])
    (tmp_path / "tsig").write_text(KEY_SECRET)
    dns = {
        "provider": "rfc2136",
        "server": bind.address,
        "key_name": "certvoy",
        "key_secret": {"file": "tsig"},
        "nameservers": [bind.address],
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        pebble = Pebble(tmp_path, kind=True, dns_server=f"{HOST}:{silent.getsockname()[1]}")
        await pebble.ready()
        plane = plane_of(tmp_path, connect, pebble, dns=dns, challenge="dns-01")

        async def answered():
            return any(entry["event"] == "challenge.answered" for entry in plane.entries())

        try:
            await plane.start()
            await until(answered)
            published = await bind.txt(OWNER)
            code, took_s = await stopped(plane)
            left = await bind.txt(OWNER)
        finally:
            await plane.stop()
            await pebble.stop()
            await bind.stop()

    assert (0, 1, set()) == (code, len(published), left)
    assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_value")
    assert took_s < GRACE_S


async def test_a_dns_provider_that_hangs_does_not_hold_up_the_end_and_is_asked_again_at_the_next_start(
    connect, sql, tmp_path
):
    pebble = Pebble(tmp_path, kind=True)
    await pebble.ready()
    (tmp_path / "password").write_text(SECRET)
    async with Webhook() as webhook:
        dns = {
            "provider": "httpreq",
            "endpoint": webhook.url,
            "username": "certvoy",
            "password": {"file": "password"},
            "propagation": "wait",
            "propagation_wait": "10m",
            "follow_aliases": False,
        }
        plane = plane_of(tmp_path, connect, pebble, dns=dns, challenge="dns-01")

        async def presented():
            return any(entry["event"] == "challenge.presented" for entry in plane.entries())

        async def withdrawn():
            return any(entry["event"] == "value.withdrawn" for entry in plane.entries())

        try:
            await plane.start()
            await until(presented)
            (published,) = await webhook.look(OWNER)
            webhook.planned.append("never")
            code, took_s = await stopped(plane)
            left = await webhook.look(OWNER)
            plane.settings["secrets"] = {}
            await plane.start()
            await until(withdrawn)
        finally:
            await plane.stop()
            await pebble.stop()
        told = [entry["error"] for entry in plane.entries() if entry["event"] == "challenge.left"]

    assert (0, {published}) == (code, left)
    assert ["no time was left"] == told
    assert took_s < GRACE_S
    assert published not in await webhook.look(OWNER)
