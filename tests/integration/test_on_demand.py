"""Names on demand, whole: Envoy, `certvoy serve`, a real CA and an operator's URL."""

import asyncio
import hashlib
import json
import ssl
import time
from random import Random

import asyncpg
import pytest
from aiohttp import web

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.xds.bootstrap import Api, OnDemandListener, bootstrap
from sds_server.xds.cluster import ControlPlane as Upstream
from tests.support.control_plane import HOST, SERVER_NAME, ControlPlane, dsn, until

IDENTITY = "spiffe://example.test/edge"

pytestmark = pytest.mark.timeout(600)


class Site:
    """All of it. ``allowed``: the names to which the operator's URL says yes."""

    def __init__(self, directory, database):
        self.directory = directory
        self.database = database
        self.allowed = {"a.shops.test", "b.shops.test"}
        self.asked = []
        self.port = free_port()
        self.envoy = self.ca = self.runner = self.plane = None

    async def start(self, *, api=Api.ADS, rotation=(), **rule):
        await self._answer()
        http01_port = free_port()
        (self.directory / "caddy").mkdir()
        self.ca = await Caddy.start(self.directory / "caddy", responder=f"{HOST}:{http01_port}")
        self.plane = ControlPlane(self.directory, database=self.database, http01_port=http01_port)
        self.plane.issuer(self.ca.directory_url, self.ca.ca_file)
        self.plane.settings["secrets"] = {}
        self.plane.settings["rotation"] |= dict(rotation)
        self.plane.settings["grants"] = [{"identity": IDENTITY, "names": ["*.shops.test"], "issue": True}]
        shops = {"name": "shops", "suffix": "*.shops.test", "issuer": "internal", "ask": self.url}
        self.plane.settings["on_demand"] = [shops | rule]
        await self.plane.start()
        certificate, key = self.plane.clients.issue(uris=[IDENTITY]).write(self.directory, "edge-1")
        config = bootstrap(
            node_id="edge-1",
            cluster="edge",
            api=api,
            control_plane=Upstream(
                host=HOST,
                port=self.plane.sds_port,
                server_name=SERVER_NAME,
                ca=self.plane.client_ca,
                certificate=certificate,
                private_key=key,
            ),
            listeners=[OnDemandListener("https", port=self.port)],
        )
        self.envoy = await envoy.start(config, self.directory)
        await until(self.envoy.live)
        await self.tells("targets", "add", "edge-1", "--probe", f"{HOST}:{self.port}", "--identity", IDENTITY)

    async def _answer(self):
        async def answer(request):
            self.asked.append(request.query["domain"])
            return web.Response(status=200 if request.query["domain"] in self.allowed else 404)

        app = web.Application()
        app.router.add_get("/may", answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, HOST, 0).start()
        self.url = f"http://{HOST}:{self.runner.addresses[0][1]}/may"

    async def stop(self):
        for part in (self.envoy, self.plane and self.plane.child, self.ca):
            if part is not None:
                await part.stop()
        if self.runner is not None:
            await self.runner.cleanup()

    async def tells(self, *arguments):
        code, said = await self.plane.command(*arguments)
        assert code == 0, said
        return said

    async def served(self, name):
        """Return the SHA-256 of the leaf that a client sees which trusts the CA alone; None: none."""
        context = ssl.create_default_context(cafile=str(self.ca.ca_file))
        try:
            async with asyncio.timeout(30):
                _, writer = await asyncio.open_connection(HOST, self.port, ssl=context, server_hostname=name)
        except (OSError, ssl.SSLError):
            return None
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return hashlib.sha256(leaf).hexdigest()


@pytest.fixture
async def site(tmp_path, connect):
    site = Site(tmp_path, dsn(connect))
    yield site
    await site.stop()


def proved(sql, name, generation):
    async def holds():
        done = (
            "SELECT count(*) FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
            " WHERE r.secret = $1 AND outcome = 'completed' AND generation = $2"
        )
        return await sql.fetchval(done, name, generation) == 1

    return holds


@pytest.mark.parametrize("api", [Api.ADS, Api.DELTA])
async def test_a_certificate_is_issued_in_the_first_handshake_renewed_proved_and_removed(site, sql, api):
    await site.start(api=api)
    orders = "SELECT count(*) FROM acme_order"

    # The first handshake waits for the CA, and is served.
    first = await site.served("A.shops.test")
    await until(proved(sql, "a.shops.test", 1))
    secret = json.loads(await site.tells("show", "a.shops.test", "--json"))

    assert first == secret["certificate"]["fingerprint"]
    assert ("on_demand", "shops", IDENTITY) == (
        secret["managed_by"],
        secret["on_demand"]["rule"],
        secret["on_demand"]["identity"],
    )
    assert ["a.shops.test"] == site.asked
    assert "on demand: by the rule shops" in await site.tells("why", "a.shops.test")
    assert "a.shops.test (on demand: shops)" in await site.tells("ls")
    evidence = await sql.fetchval("SELECT evidence->'proved' FROM certrotation")
    assert {"handshake": 1} == json.loads(evidence)

    # Made-up names are refused at once, cost no order, and disturb nobody.
    rng, limit, before = Random(11), asyncio.Semaphore(20), await sql.fetchval(orders)

    async def made_up():
        async with limit:
            return await site.served(f"{rng.getrandbits(40):x}.shops.test")

    started = time.perf_counter()
    assert {None} == set(await asyncio.gather(*(made_up() for _ in range(500))))
    assert time.perf_counter() - started < 40
    assert first == await site.served("a.shops.test")
    assert before == await sql.fetchval(orders)
    assert 1 == await sql.fetchval("SELECT count(*) FROM secret")

    # A renewal is pushed to the selector, and proved.
    await site.tells("rotate", "a.shops.test", "--wait", "--timeout", "180s")
    await until(proved(sql, "a.shops.test", 2))
    second = await site.served("a.shops.test")
    assert first != second is not None

    # Removed it is served no more; asked for again it is made again.
    site.allowed.discard("a.shops.test")
    await site.tells("delete", "a.shops.test")

    async def gone():
        return await site.served("a.shops.test") is None

    await until(gone)
    site.allowed.add("a.shops.test")
    assert await site.served("b.shops.test") is not None
    denied = "SELECT count(*) FROM certaudit WHERE action = 'on_demand.denied'"
    assert 1 == await sql.fetchval(denied)


async def test_a_name_that_nobody_has_subscribed_to_for_its_time_is_removed(site, sql):
    await site.start(rotation={"seen_for": "1s"}, keep="2s", window="2s")

    assert await site.served("a.shops.test") is not None

    await until(proved(sql, "a.shops.test", 1))
    await asyncio.sleep(4)  # it is subscribed to all along

    assert 1 == await sql.fetchval("SELECT count(*) FROM on_demand_name")

    await site.envoy.stop()
    site.envoy = None

    async def gone():
        return await sql.fetchval("SELECT deleted_at IS NOT NULL FROM secret")

    await until(gone)

    assert ["on_demand.created", "on_demand.removed"] == [
        row["action"]
        for row in await sql.fetch("SELECT action FROM certaudit WHERE action LIKE 'on_demand.%' ORDER BY id")
    ]


async def test_what_the_ca_refuses_is_absent_at_once_and_ordered_no_more_often(site, sql):
    await site.start()
    await site.ca.stop()
    code = await site.served("a.shops.test")

    async def failed():
        return await sql.fetchval("SELECT last_error IS NOT NULL FROM certrotation")

    await until(failed)

    async def quick():
        started = time.perf_counter()
        assert await site.served("a.shops.test") is None
        return time.perf_counter() - started < 5

    await until(quick)
    attempts = await sql.fetchval("SELECT attempts FROM certrotation")
    for _ in range(10):
        await site.served("a.shops.test")

    assert code is None
    assert attempts == await sql.fetchval("SELECT attempts FROM certrotation")


async def test_while_the_database_is_away_hits_are_served_and_misses_told_absent(site, connect):
    await site.start()
    leaf = await site.served("a.shops.test")

    assert leaf is not None

    admin = await asyncpg.connect(**{**connect, "database": "postgres"})
    try:
        await admin.execute(f'ALTER DATABASE "{connect["database"]}" ALLOW_CONNECTIONS false')
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", connect["database"]
        )
        started = time.perf_counter()
        misses = [await site.served(name) for name in ("x.shops.test", "b.shops.test")]
        took_s = time.perf_counter() - started

        assert [None, None] == misses
        assert took_s < 15
        assert leaf == await site.served("a.shops.test")
    finally:
        await admin.execute(f'ALTER DATABASE "{connect["database"]}" ALLOW_CONNECTIONS true')
        await admin.close()

    async def issued():
        return await site.served("b.shops.test") is not None

    await until(issued)
