# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""The KMS away: what is loaded is served, no CA is asked, and everything resumes by itself.

The control plane runs in the test's process, on a provider that can be told to fail or to hang.
"""

import asyncio
import time

import pytest

from sds_server import app
from sds_server.config import certvoy_yaml as config
from sds_server.errors import Unavailable
from sds_server.keys import providers
from sds_server.keys.local import LocalKms
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.openbao import OpenBao
from tests.support.outage import HEALED_WITHIN_S, LONG, SLOW_MACHINE_S, state, tell, watching

LASTS_S = 30 if LONG else 3
BACK_WITHIN_S = 60
"""A real server unseals itself first, and a token may have to be had."""

pytestmark = [pytest.mark.debian, pytest.mark.timeout(600)]


class TroubledKms(LocalKms):
    """A KEK in a file behind a service that can fail, or hang."""

    trouble = None
    calls = 0

    async def wrap(self, dek, context):
        await self._suffer()
        return await super().wrap(dek, context)

    async def unwrap(self, wrapped, *, kek_version, context):
        await self._suffer()
        return await super().unwrap(wrapped, kek_version=kek_version, context=context)

    async def _suffer(self):
        type(self).calls += 1
        if self.trouble == "fails":
            raise Unavailable("the KMS answers with 503")
        if self.trouble == "hangs":
            await asyncio.Event().wait()


@pytest.fixture
def kms(monkeypatch):
    class Kms(TroubledKms):
        pass

    monkeypatch.setitem(providers.PROVIDERS, "local", lambda settings: Kms(settings.key_file, create=True))
    return Kms


@pytest.fixture
async def plane(kms, pebble, front, connect, database, tmp_path):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    plane.issuer(front.directory_url, front.ca_file, terms_agreed=True)
    plane.settings["grants"] = grants("www", "new")
    plane.settings["secrets"]["new"] = {"domains": ["new.example.test"], "issuer": "internal"}
    plane.write()
    async with app.running(config.load(plane.config)):
        yield plane


def signed_requests(front):
    """Without questions for renewal information, which need no KMS."""
    return sum(visit.method == "POST" for visit in front.visits)


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_a_kms_that_is_away(trouble, kms, plane, front, sql, tmp_path):
    edge = Edge(tmp_path, plane)

    async def settled():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NOT NULL") == 2

    async def well():
        return await state(plane) == "ok"

    async def degraded():
        return await state(plane) == "degraded"

    await until(settled)
    await edge.start()
    try:
        await until(edge.served)
        leaf = await edge.served()
        kms.trouble = trouble
        asked = signed_requests(front)
        async with watching(plane, edge) as watch:
            await sql.execute("UPDATE certificate SET renew_at = certvoy_now()")
            await until(degraded)
            began = time.monotonic()
            await edge.stop()
            await edge.start()

            async def served_again():
                return await edge.served() == leaf

            await until(served_again)
            watch.unserved = 0  # its restart is not the KMS's doing
            await asyncio.sleep(LASTS_S)
            calls = kms.calls
            kms.trouble = None
            healed = time.monotonic()
            meanwhile = signed_requests(front) - asked

            async def renewed():
                return await sql.fetchval("SELECT count(*) FROM certificate WHERE generation = 2") == 2

            await until(renewed)
            await until(well)
            resumed_s = time.monotonic() - healed
    finally:
        await edge.stop()
    claims = await sql.fetchval("SELECT max(attempts) FROM certrotation WHERE reason = 'renewal'")

    tell(
        f"KMS {trouble} for {healed - began:.0f} s",
        resumed=f"{resumed_s:.1f} s",
        requests_at_the_ca_meanwhile=meanwhile,
        calls_at_the_kms=calls,
        **watch.figures(),
    )
    assert 0 == meanwhile
    assert resumed_s < HEALED_WITHIN_S + SLOW_MACHINE_S
    assert 1 == claims
    watch.assert_served()
    assert "failed" not in watch.states


@pytest.fixture
async def bao(tmp_path):
    (tmp_path / "bao").mkdir()
    bao = await OpenBao.start(tmp_path / "bao")
    await bao.key("certvoy")
    yield bao
    await bao.stop()


@pytest.fixture
async def on_vault(bao, pebble, front, connect, tmp_path):
    """A control plane whose KEK is in a real OpenBao, by AppRole."""
    role_id, secret_id = await bao.role("certvoy", token_ttl="1h")
    (tmp_path / "secret-id").write_text(secret_id)
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    plane.issuer(front.directory_url, front.ca_file, terms_agreed=True)
    plane.settings["grants"] = grants("www")
    plane.settings["kms"] = {
        "provider": "vault",
        "address": bao.address,
        "ca_file": str(bao.ca_file),
        "key": "certvoy",
        "role_id": role_id,
        "secret_id_file": str(tmp_path / "secret-id"),
    }
    plane.write()
    async with app.running(config.load(plane.config)):
        yield plane


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_an_openbao_in_trouble_over_a_rotation(trouble, bao, on_vault, front, sql, tmp_path):
    plane, edge = on_vault, Edge(tmp_path, on_vault)

    async def issued(generation):
        return generation == await sql.fetchval("SELECT max(generation) FROM certificate")

    async def degraded():
        return await state(plane) == "degraded"

    await until(lambda: issued(1))
    await edge.start()
    try:
        await until(edge.served)
        leaf = await edge.served()
        (bao.kill if trouble == "killed" else bao.freeze)()
        asked = signed_requests(front)
        async with watching(plane, edge) as watch:
            await sql.execute("UPDATE certificate SET renew_at = certvoy_now()")
            await until(degraded)
            await asyncio.sleep(LASTS_S)
            meanwhile = signed_requests(front) - asked
            leaves = set(watch.leaves)
            healed = time.monotonic()
            if trouble == "killed":
                await bao.launch()
            else:
                bao.thaw()
            await until(lambda: issued(2))
            resumed_s = time.monotonic() - healed
    finally:
        await edge.stop()

    tell(f"OpenBao {trouble}", resumed=f"{resumed_s:.1f} s", requests_at_the_ca=meanwhile, **watch.figures())
    assert 0 == meanwhile
    assert {leaf} == leaves
    assert resumed_s < BACK_WITHIN_S
    watch.assert_served()
    assert "failed" not in watch.states


async def test_keys_that_were_opened_serve_on_when_the_kms_is_away(kms, plane, front, sql, tmp_path):
    """A certificate that was stored a moment before is published, with the key that its order opened."""
    edge = Edge(tmp_path, plane, ["new"])

    async def settled():
        return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NOT NULL") == 2

    await until(settled)
    kms.trouble = "hangs"
    await edge.start()
    try:
        began = time.monotonic()

        async def served():
            return await edge.served("new") is not None

        await until(served)
        tell("a first subscriber while the KMS hangs", served=f"{time.monotonic() - began:.1f} s")
    finally:
        await edge.stop()
