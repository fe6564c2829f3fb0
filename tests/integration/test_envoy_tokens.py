"""A real Envoy 1.40 without a client certificate: it shows a token as initial metadata."""

import json
from datetime import UTC, datetime, timedelta

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server.identity import Bearer
from sds_server.programs import envoy
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.cluster import ControlPlane
from tests.integration.test_envoy_sds import NODE, site, until_served
from tests.xds.sds import EDGE, deployed


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path, tokens=True) as deployment:
        deployment.bearers["t0ken"] = Bearer(EDGE, datetime.now(UTC) + timedelta(hours=1), lambda: True)
        yield deployment


def configuration(server, api):
    """What is generated for a client certificate, with a token in its place."""
    config = json.loads(
        bootstrap(
            node_id=NODE,
            cluster="edge",
            api=api,
            control_plane=ControlPlane(
                host="localhost",
                port=server.token_port,
                server_name="localhost",
                ca=server.servers_ca.write(server.directory / "servers.pem"),
                certificate=server.directory / "none.pem",
                private_key=server.directory / "none.key",
            ),
            listeners=[TlsListener("https", "a")],
        )
    )
    _show_token(config)
    return json.dumps(config)


def _show_token(node):
    if isinstance(node, list):
        for item in node:
            _show_token(item)
    elif isinstance(node, dict):
        node.pop("tls_certificates", None)
        if "envoy_grpc" in node:
            node["initial_metadata"] = [{"key": "authorization", "value": "Bearer t0ken"}]
        for item in node.values():
            _show_token(item)


@pytest.mark.parametrize("api", [Api.DELTA, Api.ADS])
async def test_an_envoy_with_a_token_is_served_and_its_ack_credited(server, api, tmp_path):
    pair = site()
    server.publish("a", 1, pair)
    edge = await envoy.start(configuration(server, api), tmp_path)
    try:
        await server.witness.until("accepted", NODE, "a", 1)
        await until_served(edge, pair)
    finally:
        await edge.stop()
