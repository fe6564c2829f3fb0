"""Envoys as Istio, Consul and Gloo configure them, to the letter of what each makes for another SDS server.

From their source: Istio `ConstructSdsSecretConfigForCredentialSocket` and `buildExternalSDSCluster`, Consul
`makeTLSCertificateSdsSecretConfigsFromSDS`, Gloo `buildSds`. The names and identities are those of the page.
"""

import json

import pytest
import yaml

from sds_server.identity import Grant, Grants
from sds_server.model import Identity
from sds_server.programs import envoy
from sds_server.xds.sockets import SdsSocket
from tests.support.pages import DOCS, blocks
from tests.xds.edge import Edge, der, site

PAGE = (DOCS / "how-to" / "istio-consul-gloo.md").read_text()
PLANES = ("istio", "consul", "gloo")
NODES = {
    "istio": {
        "id": "router~10.244.0.7~ingressgateway-6f9cd7d7b4-x2x7t.istio-system~istio-system.svc.cluster.local",
        "cluster": "istio-ingressgateway.istio-system",
        "metadata": {"credential": "true", "NAMESPACE": "istio-system", "ISTIO_VERSION": "1.27.0"},
    },
    "consul": {
        "id": "public-1",
        "cluster": "public",
        "metadata": {"namespace": "default", "partition": "default"},
    },
    "gloo": {
        "id": "gateway-proxy-5d9c8b7f6-abcde.gloo-system",
        "cluster": "gateway",
        "metadata": {"role": "gloo-system~gateway-proxy"},
    },
}
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def configuration(plane):
    """The page's part of certvoy.yaml for it."""
    parts = [yaml.safe_load(block) for block in blocks(PAGE, "yaml") if block.startswith("# certvoy.yaml")]
    return parts[PLANES.index(plane)]


def sds_config(plane, socket):
    """What it makes of its own settings."""
    source = {"api_type": "GRPC", "transport_api_version": "V3"}
    match plane:
        case "istio":
            source["set_node_on_first_message_only"] = True
            service = {"envoy_grpc": {"cluster_name": "sds-external"}}
        case "consul":
            service = {"envoy_grpc": {"cluster_name": "certvoy"}, "timeout": "5s"}
        case "gloo":
            service = {"google_grpc": {"stat_prefix": "www", "target_uri": f"unix://{socket}"}}
    source["grpc_services"] = [service]
    return {"api_config_source": source, "resource_api_version": "V3"}


class Gateway(Edge):
    """Its Envoy, with the certificate `name` on a listener."""

    def __init__(self, directory, plane):
        super().__init__(directory, "sds-sotw")
        settings = configuration(plane)
        self.plane = plane
        (self.grant,) = settings["grants"]
        (self.name,) = settings["secrets"]
        self.server.grants = Grants([Grant(Identity(self.grant["identity"]), tuple(self.grant["names"]))])
        self.socket = directory / "run" / "socket"
        for socket in settings.get("sds", {}).get("sockets", []):
            self.server.sockets = [SdsSocket(self.socket, Identity(socket["identity"]))]

    @property
    def node(self):
        return NODES[self.plane]["id"]

    def bootstrap(self, secret):
        """Listener and cluster as the mesh writes them, in one static bootstrap."""
        config = self.configuration("https")
        config["node"] = NODES[self.plane]
        (listener,) = config["static_resources"]["listeners"]
        (chain,) = listener["filter_chains"]
        context = chain["transport_socket"]["typed_config"]["common_tls_context"]
        context["tls_certificate_sds_secret_configs"] = [
            {"name": secret, "sds_config": sds_config(self.plane, self.socket)}
        ]
        if self.plane == "istio":
            config["static_resources"]["clusters"] = [
                {
                    "name": "sds-external",
                    "type": "STATIC",
                    "connect_timeout": "10s",
                    "typed_extension_protocol_options": HTTP2,
                    "load_assignment": {
                        "cluster_name": "sds-external",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": {"pipe": {"path": str(self.socket)}}}}
                                ]
                            }
                        ],
                    },
                }
            ]
        if self.plane == "consul":
            pair = self.server.clients_ca.issue(uris=[self.grant["identity"]])
            pair.write(self.directory, "edge")
        return json.dumps(config)

    async def start(self, secret=None):
        if self.server.server is None:
            await self.server.start()
        self.envoy = await envoy.start(self.bootstrap(secret or self.name), self.directory)


@pytest.fixture(params=PLANES)
async def gateway(request, tmp_path):
    gateway = Gateway(tmp_path, request.param)
    yield gateway
    await gateway.stop()


async def test_it_is_served_and_its_certificate_rotated(gateway):
    first, second = site(), site()
    gateway.server.publish(gateway.name, 1, first)
    await gateway.start()
    await gateway.until_served(first)
    gateway.server.publish(gateway.name, 2, second)
    await gateway.until_served(second)
    await gateway.server.witness.until("accepted", gateway.node, gateway.name, 2)

    assert der(second) == await gateway.served()


async def test_what_it_is_not_granted_it_does_not_get(gateway):
    other = f"{gateway.name}-of-others"
    gateway.server.publish(other, 1, site())
    await gateway.start(other)
    await gateway.server.witness.until("denied", gateway.node, other)

    assert not [fact for fact in gateway.server.witness.facts if fact[0] == "sent"]
