"""An RSA and an ECDSA certificate side by side in a real Envoy's listener, each proved by its own type."""

import asyncio
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.targets import handshake
from sds_server.targets.tls13 import HandshakeFailed, KeyKind
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from tests.support.control_plane import HOST, dsn, of_uploads, until
from tests.support.edge import upstream_of
from tests.support.pki import authority

EDGE = "spiffe://example.test/edge"
SITES = authority("Sites root").intermediate("Sites 1")
NAME = "site.test"
RSA_KEY = rsa.generate_private_key(65537, 2048)
VERSIONS = {"tls12": "TLSv1_2", "tls13": "TLSv1_3"}


@pytest.fixture
async def plane(tmp_path, connect):
    async with of_uploads(tmp_path, dsn(connect), identity=EDGE, names=["site", "site-rsa"]) as plane:
        yield plane


@pytest.fixture
async def edge(plane, tmp_path):
    """Two listeners with both secrets: one speaks TLS 1.2 only, one TLS 1.3 only."""
    certificate, key = plane.clients.issue(uris=[EDGE]).write(tmp_path, "edge")
    where = upstream_of(plane, certificate, key)
    listeners = [TlsListener(version, "site", beside=("site-rsa",)) for version in VERSIONS]
    config = json.loads(
        bootstrap(node_id="edge-1", cluster="edge", api=Api.DELTA, control_plane=where, listeners=listeners)
    )
    for listener in config["static_resources"]["listeners"]:
        version = VERSIONS[listener["name"]]
        tls = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
        tls["tls_params"] = {"tls_minimum_protocol_version": version, "tls_maximum_protocol_version": version}
    running = await envoy.start(json.dumps(config), tmp_path)
    yield running
    await running.stop()


async def upload(plane, directory, name, pair, *more):
    chain, key = pair.write(directory, name)
    code, said = await plane.command("upload", name, "--chain", str(chain), "--private-key", str(key), *more)
    assert 0 == code, said
    return said


async def shown(port, *kinds):
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        async with asyncio.timeout(15):
            return (await handshake.shake(reader, writer, NAME, kinds)).leaf
    except (HandshakeFailed, ConnectionError, TimeoutError):
        return None
    finally:
        writer.close()


def der(pair):
    return pair.certificate.public_bytes(Encoding.DER)


async def test_both_are_served_and_each_is_proved_by_its_own_type(plane, edge, tmp_path):
    pairs = {
        name: [SITES.issue([NAME], key=key) for _ in range(2)]
        for name, key in {"site": None, "site-rsa": RSA_KEY}.items()
    }
    for name, (first, _) in pairs.items():
        await upload(plane, tmp_path, name, first)
    await until(edge.live)

    async def looked_at(version):
        probe = f"{HOST}:{await edge.listener_port(version)}"
        arguments = ("--identity", EDGE, "--node", "edge-1", "--probe", probe)
        secrets = [part for name in pairs for part in ("--secret", name)]
        code, said = await plane.command("targets", "add", "edge-1", *arguments, *secrets)
        assert 0 == code, said

    async def verdicts():
        probes = [json.loads((await plane.command("probe", name, "--json"))[1]) for name in pairs]
        return [item["verdict"] for probe in probes for item in probe]

    await looked_at("tls13")
    said = [await upload(plane, tmp_path, name, second, "--wait") for name, (_, second) in pairs.items()]
    await asyncio.sleep(2)  # several looks of the watcher, each of which would call one side stale
    newer = await verdicts()
    await looked_at("tls12")
    older = await verdicts()
    port = await edge.listener_port("tls13")

    assert ["ok", "ok"] == newer == older
    assert der(pairs["site"][1]) == await shown(port, KeyKind.ECDSA_P256, KeyKind.RSA)
    assert der(pairs["site-rsa"][1]) == await shown(port, KeyKind.RSA)
    assert all("done: proved at 1 of 1 targets" in one for one in said)
    assert "delivery.stale" not in plane.log()


async def test_one_that_is_missing_leaves_the_other_served(plane, edge, tmp_path):
    first = SITES.issue([NAME])
    await upload(plane, tmp_path, "site", first)
    await until(edge.live)
    port = await edge.listener_port("tls13")

    async def served():
        return der(first) == await shown(port, KeyKind.ECDSA_P256)

    await until(served)
    missing = await shown(port, KeyKind.RSA)
    second = SITES.issue([NAME], key=RSA_KEY)
    await upload(plane, tmp_path, "site-rsa", second)

    async def both():
        return (der(first), der(second)) == (
            await shown(port, KeyKind.ECDSA_P256, KeyKind.RSA),
            await shown(port, KeyKind.RSA),
        )

    await until(both)
    assert missing is None


async def test_an_ed25519_leaf_is_served_to_who_takes_it(plane, edge, tmp_path):
    pair = SITES.issue([NAME], key=ed25519.Ed25519PrivateKey.generate())
    await upload(plane, tmp_path, "site", pair)
    await upload(plane, tmp_path, "site-rsa", SITES.issue([NAME], key=RSA_KEY))
    await until(edge.live)
    port = await edge.listener_port("tls13")

    async def served():
        return der(pair) == await shown(port, KeyKind.ED25519)

    await until(served)
