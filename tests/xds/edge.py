"""A real Envoy in each form in which it can ask for secrets, against our transports."""

import asyncio
import json
import ssl
from datetime import timedelta

import tests.xds.quiet  # noqa: F401
from sds_server.model import Identity
from sds_server.programs import envoy
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.cluster import ControlPlane, LocalControlPlane
from sds_server.xds.sockets import SdsSocket
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, Deployment

SITES = authority("Sites")
NODE = "edge-1"
FORMS = {
    "sds-sotw": Api.SOTW,
    "sds-delta": Api.DELTA,
    "ads-sotw": Api.ADS_SOTW,
    "ads-delta": Api.ADS,
    "rest": Api.REST,
    "socket-sds-sotw": Api.SOTW,
    "socket-ads-delta": Api.ADS,
    "google-grpc-sds-delta": Api.DELTA,
    "google-grpc-ads-sotw": Api.ADS_SOTW,
}


class Edge:
    """The control plane's transports, and an Envoy whose listeners come from a file that can be changed."""

    def __init__(self, directory, form):
        self.form, self.api = form, FORMS[form]
        self.server = Deployment(directory)
        self.directory = directory
        self.listeners = directory / "listeners.json"
        self.secrets = {}
        """Of listeners that do not serve ``a``."""

        self.drain_s = 600  # Envoy's default
        self.envoy = None
        if form.startswith("socket"):
            self.server.sockets = [SdsSocket(directory / "run" / "edge.sock", Identity(EDGE))]

    @property
    def says_yes(self):
        """Whether it answers what it gets."""
        return self.api is not Api.REST

    def configuration(self, *listeners):
        """The bootstrap as Python, with listeners in it."""
        server = self.server
        certificate, key = server.clients_ca.issue(uris=[EDGE]).write(self.directory, "edge")
        ca = server.servers_ca.write(self.directory / "servers.pem")
        where = ControlPlane(
            host="localhost",
            port=server.rest_port if self.api is Api.REST else server.port,
            server_name="localhost",
            ca=ca,
            certificate=certificate,
            private_key=key,
        )
        if server.sockets:
            where = LocalControlPlane(server.sockets[0].path)
        config = json.loads(
            bootstrap(
                node_id=NODE,
                cluster="edge",
                api=self.api,
                control_plane=where,
                listeners=[TlsListener(name, self.secrets.get(name, "a")) for name in listeners],
                refresh=timedelta(milliseconds=200),
            )
        )
        if self.form.startswith("google"):
            tls = {
                "root_certs": {"filename": str(ca)},
                "cert_chain": {"filename": str(certificate)},
                "private_key": {"filename": str(key)},
            }
            google = {
                "target_uri": f"localhost:{server.port}",
                "stat_prefix": "certvoy",
                "channel_credentials": {"ssl_credentials": tls},
            }
            _replace(config, "envoy_grpc", "google_grpc", google)
        return config

    def listen(self, *names, fetch_timeout=None):
        """Write the file that Envoy takes its listeners from; it looks when a file is moved there."""
        listeners = self.configuration(*names)["static_resources"].get("listeners", [])
        if fetch_timeout is not None:
            _replace(listeners, "initial_fetch_timeout", "initial_fetch_timeout", fetch_timeout)
        kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
        content = {"resources": [{"@type": kind, **listener} for listener in listeners]}
        partial = self.listeners.with_suffix(".partial")
        partial.write_text(json.dumps(content))
        partial.rename(self.listeners)

    async def start(self):
        """Start Envoy with the listener ``https``."""
        if self.server.server is None:
            await self.server.start()
        config = self.configuration()
        source = {"path_config_source": {"path": str(self.listeners)}, "resource_api_version": "V3"}
        config.setdefault("dynamic_resources", {})["lds_config"] = source
        self.listen("https")
        self.envoy = await envoy.start(
            json.dumps(config), self.directory, more=["--drain-time-s", str(self.drain_s)]
        )

    async def stop(self):
        if self.envoy is not None:
            await self.envoy.stop()
        await self.server.stop()

    async def served(self, name="https"):
        """Return the DER of the leaf that a new handshake shows."""
        context = ssl.create_default_context(cadata=SITES.pem.decode())
        port = await self.envoy.listener_port(name)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="a.test")
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return leaf

    async def until_served(self, pair, name="https"):
        await until(lambda: self._serves(pair, name))

    async def _serves(self, pair, name):
        try:
            return await self.served(name) == der(pair)
        except (OSError, ssl.SSLError, envoy.Unavailable):  # nothing to show yet
            return False

    async def refused(self, times):
        """Wait until Envoy has refused so many updates, by its own count."""

        async def counted():
            answer = await self.envoy.admin_get("/stats?filter=update_rejected&format=json")
            return times <= sum(stat["value"] for stat in json.loads(answer)["stats"])

        await until(counted)


def _replace(node, key, other, value):
    """Put ``value`` as ``other`` wherever ``key`` is."""
    if isinstance(node, dict):
        if key in node:
            del node[key]
            node[other] = value
        for item in node.values():
            _replace(item, key, other, value)
    elif isinstance(node, list):
        for item in node:
            _replace(item, key, other, value)


async def until(holds):
    async with asyncio.timeout(TIMEOUT_S):
        while not await holds():
            await asyncio.sleep(0.02)


def site():
    return SITES.issue(dns=["a.test"])


def der(pair):
    return ssl.PEM_cert_to_DER_cert(pair.chain_pem.decode())


async def is_gone(edge, name):
    listeners = json.loads(await edge.envoy.admin_get("/listeners?format=json"))
    return name not in [one["name"] for one in listeners.get("listener_statuses", [])]
