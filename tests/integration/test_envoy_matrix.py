"""A real Envoy 1.40, in each form in which it can ask for secrets, through what happens to it.

How many scenarios ran is in the summary at the end of the run.
"""

import asyncio
import itertools
import json
import os
import ssl
import time
from datetime import timedelta

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server.model import Identity
from sds_server.programs import envoy
from sds_server.xds import codec
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.catalog import ABSENT, Resource
from sds_server.xds.cluster import ControlPlane, LocalControlPlane
from sds_server.xds.sockets import SdsSocket
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, Deployment

SITES = authority("Sites")
NODE = "edge-1"
ROTATIONS = int(os.environ.get("CERTVOY_MATRIX_ROTATIONS", "5"))
"""Under handshakes that never pause; `make chaos` asks for 100."""

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

pytestmark = [
    pytest.mark.parametrize("form", FORMS),
    pytest.mark.timeout(120 + 2 * ROTATIONS),
]


class Edge:
    """The control plane's transports, and an Envoy whose listeners come from a file that can be changed."""

    def __init__(self, directory, form):
        self.form, self.api = form, FORMS[form]
        self.server = Deployment(directory)
        self.directory = directory
        self.listeners = directory / "listeners.json"
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
                listeners=[TlsListener(name, "a") for name in listeners],
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
        self.envoy = await envoy.start(json.dumps(config), self.directory)

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


@pytest.fixture
async def edge(form, tmp_path):
    edge = Edge(tmp_path, form)
    yield edge
    await edge.stop()


def site():
    return SITES.issue(dns=["a.test"])


def der(pair):
    return ssl.PEM_cert_to_DER_cert(pair.chain_pem.decode())


async def test_first_start(edge):
    first = site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)

    assert await edge.envoy.live()
    if edge.says_yes:
        await edge.server.witness.until("accepted", NODE, "a", 1)


async def test_rotation_under_handshakes(edge):
    """None fails, none shows anything older than the one before it, and each rotation is shown."""
    pairs = [site() for _ in range(ROTATIONS + 1)]
    order = {der(pair): number for number, pair in enumerate(pairs)}
    edge.server.publish("a", 1, pairs[0])
    await edge.start()
    await edge.until_served(pairs[0])
    shown, going = [], True

    async def shake():
        while going:
            shown.append(order[await edge.served()])

    shaking = [asyncio.create_task(shake()) for _ in range(2)]
    for number, pair in enumerate(pairs[1:], start=2):
        edge.server.publish("a", number, pair)
        await edge.until_served(pair)
    going = False
    await asyncio.gather(*shaking)

    assert ROTATIONS == max(shown)
    assert len(shown) > ROTATIONS
    drops = [before - after for before, after in itertools.pairwise(shown)]
    assert max(drops) <= 1  # two shake at once: one may have begun before the other


async def test_restart_of_the_server(edge):
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    await edge.server.stop()
    await edge.server.start()
    edge.server.publish("a", 2, second)

    await edge.until_served(second)


async def test_server_down_and_up_again(edge):
    """Down, Envoy serves on; what was issued meanwhile comes soon after."""
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    await edge.server.stop()
    edge.server.publish("a", 2, second)
    await asyncio.sleep(1)  # down for so long: nothing is waited for

    assert der(first) == await edge.served()
    await edge.server.start()
    started = time.monotonic()
    await edge.until_served(second)
    assert time.monotonic() - started < 10


async def test_refusal(edge):
    """The old pair stays, and the next good one is taken."""
    first, second, third = site(), site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)

    assert der(first) == await edge.served()
    if edge.says_yes:
        await edge.server.witness.until("refused", NODE, "a", 2)
        assert 1 == edge.server.witness.facts.count(("sent", NODE, "a", 2))
    edge.server.publish("a", 3, third)
    await edge.until_served(third)


async def test_refusal_and_restart_of_the_server(edge):
    """What a proxy refused is not sent to it again by a server that has started anew."""
    first, second, third = site(), site(), site()
    edge.server.publish("a", 1, first)
    before = edge.server.catalog.look("a")
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)
    bad = edge.server.catalog.look("a")
    if edge.says_yes:
        await edge.server.witness.until("refused", NODE, "a", 2)
        edge.server.witness.refused_before = frozenset({("a", bad.version)})
        edge.server.catalog.offer("a", bad, {}, before=before)
    asked = edge.server.witness.facts.count(("subscribed", NODE, "a"))
    sent = edge.server.witness.facts.count(("sent", NODE, "a", 2))
    await edge.server.stop()
    await edge.server.start()
    await edge.server.witness.until("subscribed", NODE, "a", times=asked + 1)

    assert der(first) == await edge.served()
    if edge.says_yes:
        assert sent == edge.server.witness.facts.count(("sent", NODE, "a", 2))
    edge.server.publish("a", 3, third)
    await edge.until_served(third)
    if edge.says_yes:
        assert sent == edge.server.witness.facts.count(("sent", NODE, "a", 2))


async def test_listeners_come_and_go(edge):
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.listen("https", "more")
    await edge.until_served(first, "more")
    edge.listen("more")
    await until(lambda: _is_gone(edge, "https"))
    edge.server.publish("a", 2, second)
    await edge.until_served(second, "more")
    edge.listen("https")
    await until(lambda: _is_gone(edge, "more"))

    await edge.until_served(second)


async def _is_gone(edge, name):
    listeners = json.loads(await edge.envoy.admin_get("/listeners?format=json"))
    return name not in [one["name"] for one in listeners.get("listener_statuses", [])]


async def test_a_listener_whose_source_differs_by_a_byte(edge):
    """Another provider in Envoy: state of the world asks again, delta ADS lives by a refresh."""
    edge.server.refresh_s = 1.0
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.listen("https", fetch_timeout="5s")
    await until(lambda: _was_updated(edge))
    await edge.until_served(first)
    edge.server.publish("a", 2, second)

    await edge.until_served(second)


async def _was_updated(edge):
    stats = await edge.envoy.stats("listener_manager.")
    return stats["listener_manager.listener_modified"] == 1 and (
        stats["listener_manager.total_listeners_warming"] == 0
    )


async def test_missing_and_then_made(edge):
    first = site()
    edge.server.catalog.publish({"a": ABSENT})
    await edge.start()
    await edge.server.witness.until("subscribed", NODE, "a")
    edge.server.publish("a", 1, first)

    await edge.until_served(first)


async def test_the_same_certificate_as_other_bytes(edge):
    """After a refusal the same bytes would be taken unseen: another newline is judged."""
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)
    body = codec.tls_certificate("a", second.chain_pem + b"\n", second.key_pem)
    edge.server.catalog.publish({"a": Resource("a", codec.version(b"key", body), 2, body)})

    await edge.until_served(second)
