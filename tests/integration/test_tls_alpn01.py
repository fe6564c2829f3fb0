"""docs/how-to/tls-alpn-01.md: names are proved at port 443, through the Envoy that serves them."""

import asyncio
import json

import pytest
import yaml

from sds_server.config.certvoy_yaml import load
from sds_server.errors import ConfigError
from sds_server.programs.child import free_port
from tests.support import pebble
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import Edge, grants
from tests.support.pages import DOCS, blocks

PAGE = (DOCS / "how-to" / "tls-alpn-01.md").read_text()


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    running = pebble.start(tmp_path_factory.mktemp("pebble"))
    yield running
    asyncio.run(running.stop())


def snippets():
    """The page's own YAML: certvoy's, the listener's, the cluster's."""
    return [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]


@pytest.fixture
async def plane(tmp_path, connect, ca):
    certvoy, _, _ = snippets()
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(
        ca.directory_url, ca.ca_file, terms_agreed=True, challenge=certvoy["issuers"]["le"]["challenge"]
    )
    plane.settings["tls_alpn01"] = {"listen": f"{HOST}:{free_port()}"}
    plane.settings["grants"] = grants("www")
    yield plane
    if plane.child is not None:
        await plane.stop()


def behind(edge, plane, port):
    """Let the Edge's listener be at the port that the CA asks, with what the page adds."""
    _, listener, cluster = snippets()
    document = json.loads(edge._bootstrap)
    static = document["static_resources"]
    static["listeners"][0]["address"]["socket_address"]["port_value"] = port
    static["listeners"][0]["listener_filters"] = listener["listener_filters"]
    static["listeners"][0]["filter_chains"][:0] = listener["filter_chains"]
    text = json.dumps(cluster["clusters"]).replace(
        "8444", plane.settings["tls_alpn01"]["listen"].split(":")[1]
    )
    static["clusters"] += json.loads(text)
    edge._bootstrap = json.dumps(document).replace('"15s"', '"1s"')
    edge.ports["www"] = port


@pytest.mark.debian
async def test_the_envoy_that_serves_the_name_passes_its_proof_on(plane, ca, sql, tmp_path):
    edge = Edge(tmp_path, plane)
    behind(edge, plane, ca.tls_port)
    await edge.start()
    try:
        await plane.start()
        address = f"{HOST}:{ca.tls_port}"
        await plane.command("targets", "add", "edge-1", "--probe", address, "--secret", "www")

        async def completed():
            return await sql.fetchval("SELECT outcome FROM certrotation") == "completed"

        await until(completed)
        fingerprint = await sql.fetchval("SELECT fingerprint FROM certificate")

        assert fingerprint == await edge.served()
        assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_token")
        assert '"type": "tls-alpn-01"' in plane.log()
    finally:
        await edge.stop()


def test_names_cannot_be_proved_where_nothing_listens(plane):
    del plane.settings["tls_alpn01"]
    plane.write()
    with pytest.raises(ConfigError, match="issuer internal has names proved by tls-alpn-01") as wrong:
        load(plane.config)

    assert "tls_alpn01: {listen: 127.0.0.1:8444}" in str(wrong.value)
