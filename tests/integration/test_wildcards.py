"""A wildcard from the configuration to a handshake: certvoy, Pebble, BIND and Envoy, all real."""

import asyncio

import pytest

from tests.support import pebble
from tests.support.bind import KEY_SECRET, Bind, Zone
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants

pytestmark = pytest.mark.debian

OWNER = "_acme-challenge.example.test"


@pytest.fixture(scope="module")
def bind(tmp_path_factory):
    running = asyncio.run(Bind.start(tmp_path_factory.mktemp("bind"), [Zone("example.test")]))
    yield running
    asyncio.run(running.stop())


@pytest.fixture(scope="module")
def ca(tmp_path_factory, bind):
    running = pebble.start(tmp_path_factory.mktemp("pebble"), dns_server=bind.address)
    yield running
    asyncio.run(running.stop())


@pytest.fixture
async def plane(tmp_path, connect, ca, bind):
    """One secret of a name, its wildcard and a name that is proved by HTTP; nothing runs yet."""
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=ca.http_port)
    (tmp_path / "tsig").write_text(KEY_SECRET)
    dns = {
        "provider": "rfc2136",
        "server": bind.address,
        "key_name": "certvoy",
        "key_secret": {"file": "tsig"},
        "nameservers": [bind.address],
    }
    plane.issuer(ca.directory_url, ca.ca_file, terms_agreed=True, dns=dns)
    plane.settings["secrets"] = {
        "www": {"domains": ["example.test", "*.example.test", "www.example.test"], "issuer": "internal"}
    }
    plane.settings["grants"] = grants("www")
    plane.settings["log"] = {"level": "debug"}
    yield plane
    if plane.child is not None:
        await plane.stop()


def proved_by(plane):
    """How each name was proved, from the log."""
    return {
        (entry["identifier"], entry["type"])
        for entry in plane.entries()
        if entry["event"] == "challenge.ready"
    }


async def test_a_wildcard_is_ordered_proved_by_dns_served_by_envoy_and_proved_there(
    plane, bind, sql, tmp_path
):
    edge = Edge(tmp_path, plane)
    await plane.start()
    await edge.start()
    try:
        address = f"{HOST}:{edge.ports['www']}"
        await plane.command("targets", "add", "edge-1", "--probe", address, "--secret", "www")

        async def completed():
            return await sql.fetchval("SELECT outcome FROM certrotation") == "completed"

        await until(completed)
        fingerprint = await sql.fetchval("SELECT fingerprint FROM certificate")

        assert fingerprint == await edge.served()
    finally:
        await edge.stop()

    assert {
        ("*.example.test", "dns-01"),
        ("example.test", "http-01"),
        ("www.example.test", "http-01"),
    } == proved_by(plane)
    assert set() == await bind.txt(OWNER)
    assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_value")
    assert KEY_SECRET not in plane.log(), "at the most talkative level"


async def test_a_preference_has_a_name_proved_by_dns(plane, sql):
    plane.settings["issuers"]["internal"]["challenges"] = {"example.test": "dns-01"}
    plane.settings["secrets"]["www"]["domains"] = ["example.test", "www.example.test"]
    await plane.start()

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate") == 1

    await until(issued)

    assert {("example.test", "dns-01"), ("www.example.test", "http-01")} == proved_by(plane)


async def test_a_zone_that_refuses_us_is_named_with_the_next_step(plane, tmp_path, sql):
    plane.settings["issuers"]["internal"]["dns"]["key_name"] = "nobody"
    await plane.start()

    async def failed():
        return await sql.fetchval("SELECT last_error IS NOT NULL FROM certrotation")

    await until(failed)
    _, why = await plane.command("why", "www")

    assert "says The peer didn't know the key we used" in why
    assert "the server does not know a key of this name and algorithm" in why
