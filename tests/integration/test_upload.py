"""Uploaded pairs at a real Envoy: served over SDS by a control plane, and proved by handshake."""

import json

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.programs.child import free_port
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from tests.support.control_plane import HOST, ControlPlane, dsn
from tests.support.edge import upstream_of
from tests.support.pki import authority

EDGE = "spiffe://example.test/edge"
SITES = authority("Bought root").intermediate("Bought intermediate")
NAMES = ["*.bought.test", "bought.test"]


@pytest.fixture
async def plane(tmp_path, connect):
    """Without a CA: nobody listens at its issuer's directory."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings |= {"secrets": {}, "grants": [{"identity": EDGE, "names": ["bought"]}]}
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
async def edge(plane, tmp_path):
    certificate, key = plane.clients.issue(uris=[EDGE]).write(tmp_path, "edge")
    running = await envoy.start(
        bootstrap(
            node_id="edge-1",
            cluster="edge",
            api=Api.DELTA,
            control_plane=upstream_of(plane, certificate, key),
            listeners=[TlsListener("https", "bought")],
        ),
        tmp_path,
    )
    yield running
    await running.stop()


async def test_what_is_uploaded_is_what_an_envoy_is_proved_to_serve(plane, edge, tmp_path):
    async def upload(pair, *more):
        chain, key = pair.write(tmp_path, "bought")
        return await plane.command(
            "upload", "bought", "--chain", str(chain), "--private-key", str(key), *more
        )

    first, second = SITES.issue(NAMES), SITES.issue(NAMES)
    declared = await upload(first)
    port = await edge.listener_port("https")
    await plane.command("targets", "add", "edge-1", "--probe", f"{HOST}:{port}", "--secret", "bought")
    proved = await upload(second, "--wait")
    again = await upload(second)
    code, probed = await plane.command("probe", "bought", "--json")

    assert 0 == declared[0], declared
    assert 0 == proved[0], proved
    assert "done: proved at 1 of 1 targets" in proved[1]
    assert "nothing to do" in again[1]
    assert 0 == code, probed
    looked = {item["server_name"]: item["verdict"] for item in json.loads(probed)}
    assert {"certvoy-probe.bought.test": "ok", "bought.test": "ok"} == looked
