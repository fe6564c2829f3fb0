"""A real Envoy 1.40 against the server, in every form in which it asks for secrets."""

import asyncio
import json
import ssl
import subprocess

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from structlog.testing import capture_logs

import tests.xds.quiet  # noqa: F401
from sds_server.identity import Grants
from sds_server.model import Kind
from sds_server.payloads.trust import TrustBundle
from sds_server.programs import envoy
from sds_server.targets.certs import loaded_cas, loaded_serials
from sds_server.xds import codec
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.catalog import ABSENT, Resource
from sds_server.xds.cluster import ControlPlane
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed

SITES = authority("Sites")
NODE = "edge-1"

pytestmark = pytest.mark.parametrize("api", [api for api in Api if api is not Api.REST])  # it says no yes


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path) as deployment:
        yield deployment


@pytest.fixture
async def edge(server, api, tmp_path):
    """An Envoy with a listener for the secret a; it waits for its first secret."""
    running = await envoy.start(configuration(server, api), tmp_path)
    yield running
    await running.stop()


def configuration(server, api):
    certificate, key = server.clients_ca.issue(uris=[EDGE]).write(server.directory, "edge")
    return bootstrap(
        node_id=NODE,
        cluster="edge",
        api=api,
        control_plane=ControlPlane(
            host="localhost",  # two addresses, of which the server has one
            port=server.port,
            server_name="localhost",
            ca=server.servers_ca.write(server.directory / "servers.pem"),
            certificate=certificate,
            private_key=key,
        ),
        listeners=[TlsListener("https", "a")],
    )


def site():
    return SITES.issue(dns=["a.test"])


async def served(edge):
    """Return the DER of the leaf that a new handshake shows."""
    context = ssl.create_default_context(cadata=SITES.pem.decode())
    port = await edge.listener_port("https")
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="a.test")
    leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return leaf


async def serials(edge):
    """Return the serial numbers of all leaves in use, Envoy's own for the control plane too."""
    return {int(leaf["serial_number"], 16) for entry in await edge.certs() for leaf in entry["cert_chain"]}


def der(pair):
    return ssl.PEM_cert_to_DER_cert(pair.chain_pem.decode())


async def until_served(edge, pair):
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                if await served(edge) == der(pair):
                    return
            except (OSError, ssl.SSLError):  # nothing to show yet
                pass
            await asyncio.sleep(0.02)


async def test_every_bootstrap_is_valid(api, server, tmp_path):
    config = tmp_path / "bootstrap.json"
    config.write_text(configuration(server, api))
    argv = [envoy.binary(), "--mode", "validate", "-c", config, "-l", "error"]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout


async def test_the_first_secret_makes_envoy_live(server, edge):
    first = site()
    server.publish("a", 1, first)
    await server.witness.until("accepted", NODE, "a", 1)
    await until_served(edge, first)

    assert await edge.live()
    assert first.certificate.serial_number in await serials(edge)


async def test_a_rotation_is_shown_by_the_next_handshake(server, edge):
    first, second = site(), site()
    server.publish("a", 1, first)
    await until_served(edge, first)
    server.publish("a", 2, second)
    await server.witness.until("accepted", NODE, "a", 2)

    await until_served(edge, second)


async def test_a_mismatched_pair_is_refused_and_the_old_one_stays(server, edge):
    """After the refusal the last good content comes back once, and the next pair is judged honestly."""
    first, second, third = site(), site(), site()
    server.publish("a", 1, first)
    await server.witness.until("accepted", NODE, "a", 1)
    server.publish("a", 2, second, key_of=first)
    await server.witness.until("refused", NODE, "a", 2)
    await server.witness.until("accepted", NODE, "a", 1, times=2)

    assert "KEY_VALUES_MISMATCH" in server.witness.detail
    assert server.witness.facts.count(("sent", NODE, "a", 1)) == 2
    assert server.witness.facts.count(("sent", NODE, "a", 2)) == 1
    assert await served(edge) == der(first)

    server.publish("a", 3, third)
    await server.witness.until("accepted", NODE, "a", 3)
    await until_served(edge, third)


async def test_a_refusal_that_holds_the_key_is_told_without_it(server, edge):
    """Envoy 1.40 puts the whole Secret into its refusal when a rule of the message is broken."""
    pair = site()
    secret = Secret.FromString(codec.tls_certificate("a", pair.chain_pem, pair.key_pem))
    secret.tls_certificate.password.filename = ""
    server.catalog.publish({"a": Resource("a", "v1", 1, secret.SerializeToString())})
    await server.witness.until("refused", NODE, "a", 1)

    assert "Password" in server.witness.detail
    assert not [line for line in pair.key_pem.decode().splitlines() if line[:16] in server.witness.detail]


async def test_envoy_comes_back_after_a_restart_of_the_server(server, edge):
    first, second = site(), site()
    server.publish("a", 1, first)
    await until_served(edge, first)
    await server.stop()

    assert await served(edge) == der(first)

    await server.start()
    await server.witness.until("subscribed", NODE, "a", times=2)
    server.publish("a", 2, second)
    await until_served(edge, second)


async def test_a_secret_that_is_made_later_is_served_then(server, edge, api):
    """Delta says that it is missing, and Envoy goes live without it; state of the world waits."""
    first = site()
    server.catalog.publish({"a": ABSENT})
    await server.witness.until("subscribed", NODE, "a")
    async with asyncio.timeout(TIMEOUT_S):
        while api in {Api.DELTA, Api.ADS} and not await edge.live():
            await asyncio.sleep(0.02)
    server.publish("a", 1, first)

    await until_served(edge, first)


async def test_a_name_that_envoy_may_not_see_is_not_served(server, edge):
    first = site()
    server.grants = Grants([])
    server.server.recheck()
    server.publish("a", 1, first)
    await server.witness.until("denied", NODE, "a")

    assert first.certificate.serial_number not in await serials(edge)
    assert not [fact for fact in server.witness.facts if fact[0] == "sent"]


async def test_the_same_certificate_as_other_bytes_is_judged_anew(server, edge):
    """A newline more: what was refused is refused again, and what was taken is taken and served."""
    first, second = site(), site()
    server.publish("a", 1, first)
    await server.witness.until("accepted", NODE, "a", 1)
    for salt in (0, 1):
        body = codec.tls_certificate("a", second.chain_pem + b"\n" * salt, first.key_pem)
        server.catalog.publish({"a": Resource("a", codec.version(b"key", body), 2, body)})
        await server.witness.until("refused", NODE, "a", 2, times=salt + 1)
    for salt in (1, 2):
        body = codec.tls_certificate("a", second.chain_pem + b"\n" * salt, second.key_pem)
        server.catalog.publish({"a": Resource("a", codec.version(b"key", body), 3, body)})
        await server.witness.until("accepted", NODE, "a", 3, times=salt)

    await until_served(edge, second)


async def test_envoys_own_statement_is_that_of_its_listener(server, edge):
    """Right even after a refusal, when its config_dump shows what was refused."""
    first, second = site(), site()
    address = edge.admin_address
    server.publish("a", 1, first)
    await until_served(edge, first)
    loaded = await loaded_serials(address)
    server.publish("a", 2, second, key_of=first)
    await server.witness.until("refused", NODE, "a", 2)
    after_refusal = await loaded_serials(address)
    server.publish("a", 3, second)
    await until_served(edge, second)

    assert first.certificate.serial_number in loaded & after_refusal
    assert second.certificate.serial_number not in loaded | after_refusal
    assert second.certificate.serial_number in await loaded_serials(address)
    assert first.certificate.serial_number not in await loaded_serials(address)


async def test_keepalive_every_moment_is_no_reason_to_be_cut(server, api, tmp_path):
    """With gRPC's defaults an Envoy that pings every second is dropped again and again."""
    config = json.loads(configuration(server, api))
    (cluster,) = config["static_resources"]["clusters"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    http2 = options["explicit_http_config"]["http2_protocol_options"]
    http2["connection_keepalive"] = {"interval": "0.1s", "timeout": "5s"}
    edge = await envoy.start(json.dumps(config), tmp_path)
    first = site()
    server.publish("a", 1, first)
    await until_served(edge, first)
    await asyncio.sleep(3)  # thirty pings
    stats = await edge.stats("cluster.certvoy.")
    await edge.stop()

    assert 1 == stats["cluster.certvoy.upstream_cx_active"]
    assert 1 == server.witness.facts.count(("subscribed", NODE, "a"))


async def test_an_envoy_that_speaks_tls_1_2_is_told_and_gets_nothing(server, api, tmp_path):
    config = json.loads(configuration(server, api))
    (cluster,) = config["static_resources"]["clusters"]
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    tls["tls_params"] = {"tls_maximum_protocol_version": "TLSv1_2"}
    server.publish("a", 1, site())
    with capture_logs() as logs:
        edge = await envoy.start(json.dumps(config), tmp_path)
        async with asyncio.timeout(TIMEOUT_S):
            while not [line for line in logs if line["event"] == "client.refused"]:
                await asyncio.sleep(0.02)
        await edge.stop()

    assert "a client certificate over TLS 1.3 is required" in {line.get("reason") for line in logs}
    assert [] == server.witness.facts


async def test_a_bundle_as_other_bytes_is_taken_and_stays_loaded(server, api, tmp_path):
    """What may differ without a meaning is a line's end behind the last CA: so a bundle is offered again."""
    root = authority("Clients")
    bundle = TrustBundle.read(root.pem.decode())
    body = codec.payload("b", bundle)
    config = json.loads(configuration(server, api))
    (listener,) = config["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    common = chain["transport_socket"]["typed_config"]["common_tls_context"]
    (asked,) = common["tls_certificate_sds_secret_configs"]
    common["validation_context_sds_secret_config"] = asked | {"name": "b"}
    server.publish("a", 1, site())
    for generation, said in ((1, body), (2, codec.salted(body, 1))):
        resource = Resource("b", f"v{generation}", generation, said, kind=Kind.VALIDATION_CONTEXT)
        server.catalog.publish({"b": resource})
        if generation == 1:
            running = await envoy.start(json.dumps(config), tmp_path)
        await server.witness.until("accepted", NODE, "b", generation)
    try:
        wanted = frozenset({root.certificate.serial_number})
        async with asyncio.timeout(TIMEOUT_S):
            while wanted not in await loaded_cas(running.admin_address):
                await asyncio.sleep(0.02)
    finally:
        await running.stop()
