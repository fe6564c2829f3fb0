"""Real programs that serve HTTP/3 are proved over QUIC too: what is served there is another listener's."""

import hashlib
import json
from contextlib import asynccontextmanager

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.programs.child import free_port
from sds_server.targets.probe import Way, served_fingerprint, served_leaves
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from tests.support import caddy, traefik
from tests.support.control_plane import HOST, dsn, of_uploads, until
from tests.support.edge import upstream_of
from tests.support.http3 import of_files, quic_listener
from tests.support.pki import authority, cert_pem

EDGE = "spiffe://example.test/edge"
NAME = "www.example.test"
SITES = authority("Sites root")
NO_ERROR = "downstream.rx.quic_connection_close_error_code_QUIC_NO_ERROR"
ECDSA, RSA = SITES.issue([NAME]), SITES.issue([NAME], key=rsa.generate_private_key(65537, 2048))


def fingerprint(pair):
    return hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).hexdigest()


# ---------------------------------------------------------------- programs, with files


async def an_envoy(directory, files):
    config = {
        "node": {"id": "edge-1", "cluster": "edge"},
        "admin": {"address": {"socket_address": {"address": HOST, "port_value": 0}}},
        "static_resources": {"listeners": [quic_listener(of_files(files), host=HOST)]},
    }
    return await envoy.start(json.dumps(config), directory)


@asynccontextmanager
async def of_envoy(directory, files):
    running = await an_envoy(directory, files)
    try:
        await until(running.live)
        yield f"{HOST}:{await running.listener_port('quic')}"
    finally:
        await running.stop()


@asynccontextmanager
async def of_caddy(directory, files):
    """It serves HTTP/3 unless it is told not to."""
    (chain, key), *others = files
    program = caddy.Caddy(directory, certificate=chain, key=key)
    text = program.config.read_text()
    for one in others:
        text = text.replace("\trespond", f"\ttls {one[0]} {one[1]}\n\trespond")
    program.config.write_text(text)
    await program.start()
    try:
        yield program.address
    finally:
        await program.stop()


@asynccontextmanager
async def of_traefik(directory, files):
    program = traefik.Traefik(directory)
    program.settings["entryPoints"]["websecure"]["http3"] = {}
    tls = {"certificates": [{"certFile": str(chain), "keyFile": str(key)} for chain, key in files]}
    (program.dynamic / "tls.yml").write_text(yaml.safe_dump({"tls": tls}))
    await program.start()
    try:
        yield program.address
    finally:
        await program.stop()


PROGRAMS = {"envoy": of_envoy, "caddy": of_caddy, "traefik": of_traefik}


@pytest.mark.parametrize("pair", [ECDSA, RSA], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize("program", PROGRAMS)
async def test_what_a_program_serves_over_quic_is_seen(program, pair, tmp_path):
    async with PROGRAMS[program](tmp_path, [pair.write(tmp_path, "pair")]) as address:
        seen = await served_fingerprint(Way(address, quic=True), NAME)

    assert fingerprint(pair) == seen


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_chain_of_more_than_three_datagrams_is_seen(program, tmp_path):
    """A server may send three times what it got, until it hears of us again."""
    keys = [rsa.generate_private_key(65537, 4096) for _ in range(2)]
    pair = SITES.issue([NAME], key=keys[0])
    issuers = [SITES.issue([f"{number}.{'x' * 60}.test"], key=keys[1]) for number in range(4)]
    chain, key = pair.write(tmp_path, "pair")
    chain.write_bytes(pair.chain_pem + b"".join(cert_pem(issuer.certificate) for issuer in issuers))
    size = sum(len(each.certificate.public_bytes(Encoding.DER)) for each in (pair, *issuers))
    async with PROGRAMS[program](tmp_path, [(chain, key)]) as address:
        seen = await served_fingerprint(Way(address, quic=True), NAME)

    assert size > 4000
    assert fingerprint(pair) == seen


async def test_a_traefik_shows_a_new_pair_over_quic(tmp_path):
    second = SITES.issue([NAME])
    async with of_traefik(tmp_path, [ECDSA.write(tmp_path, "first")]) as address:
        way = Way(address, quic=True)
        first = await served_fingerprint(way, NAME)
        chain, key = second.write(tmp_path, "second")
        tls = {"certificates": [{"certFile": str(chain), "keyFile": str(key)}]}
        (tmp_path / "dynamic" / "tls.yml").write_text(yaml.safe_dump({"tls": tls}))

        async def shown():
            return fingerprint(second) == await served_fingerprint(way, NAME)

        await until(shown)

    assert fingerprint(ECDSA) == first


@pytest.mark.parametrize(
    ("program", "shown"), [("envoy", [ECDSA]), ("caddy", [ECDSA, RSA]), ("traefik", [ECDSA])]
)
async def test_leaves_of_two_types_side_by_side_are_seen_where_a_program_has_them(program, shown, tmp_path):
    """Envoy 1.40 has over QUIC the ECDSA leaf alone, and none for who takes RSA alone; Traefik the first."""
    files = [pair.write(tmp_path, name) for name, pair in {"ecdsa": ECDSA, "rsa": RSA}.items()]
    async with PROGRAMS[program](tmp_path, files) as address:
        way = Way(address, quic=True)
        seen = [hashlib.sha256(leaf).hexdigest() async for leaf in served_leaves(way, NAME)]

    assert sorted(map(fingerprint, shown)) == sorted(seen)


async def test_a_look_leaves_nothing_behind_at_an_envoy(tmp_path):
    """It sees a connection that ended without an error."""
    running = await an_envoy(tmp_path, [ECDSA.write(tmp_path, "pair")])
    try:
        await until(running.live)
        way = Way(f"{HOST}:{await running.listener_port('quic')}", quic=True)
        await served_fingerprint(way, NAME)

        async def ended():
            http, listener = await running.stats("http.quic."), await running.stats("listener.")
            closes = [name.rpartition(".http3.")[2] for name in listener if "_error_code_" in name]
            return (0, 1, [NO_ERROR]) == (
                http["http.quic.downstream_cx_active"],
                http["http.quic.downstream_cx_total"],
                closes,
            )

        await until(ended)
    finally:
        await running.stop()


# ---------------------------------------------------------------- an Envoy with secrets


@pytest.fixture
async def plane(tmp_path, connect):
    async with of_uploads(tmp_path, dsn(connect), identity=EDGE, names=["www"]) as plane:
        yield plane


@pytest.fixture
async def edge(plane, tmp_path):
    """Start an Envoy with the secret over TCP and over QUIC, at one port, or with files over QUIC."""
    started = []

    async def start(files=()):
        certificate, key = plane.clients.issue(uris=[EDGE]).write(tmp_path, "edge")
        port = free_port()
        config = json.loads(
            bootstrap(
                node_id="edge-1",
                cluster="edge",
                api=Api.DELTA,
                control_plane=upstream_of(plane, certificate, key),
                listeners=[TlsListener("www", "www", port=port)],
            )
        )
        (tcp,) = config["static_resources"]["listeners"]
        secret = tcp["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
        beside = quic_listener(of_files(files) if files else secret, host=HOST, port=port)
        config["static_resources"]["listeners"].append(beside)
        started.append(await envoy.start(json.dumps(config), tmp_path))
        return started[-1], f"{HOST}:{port}"

    yield start
    for running in started:
        await running.stop()


async def upload(plane, directory, name, pair, *more):
    chain, key = pair.write(directory, name)
    return await plane.command("upload", "www", "--chain", str(chain), "--private-key", str(key), *more)


async def test_a_rotation_is_proved_over_tcp_and_over_quic(plane, edge, tmp_path):
    first, second = (SITES.issue([NAME]) for _ in range(2))
    await upload(plane, tmp_path, "first", first)
    running, address = await edge()
    await until(running.live)
    named = ("--identity", EDGE, "--node", "edge-1", "--secret", "www", "--probe", address, "--http3")
    _, said = await plane.command("targets", "add", "edge-1", *named)
    code, done = await upload(plane, tmp_path, "second", second, "--wait")
    tested = await plane.command("targets", "test", "edge-1")
    probed = await plane.command("probe", "www")

    assert f"is probed at {address}, and over QUIC" in said
    assert (0, True) == (code, "done: proved at 1 of 1 targets" in done), done
    assert fingerprint(second) == await served_fingerprint(Way(address, quic=True), NAME)
    assert [0, 0] == [tested[0], probed[0]]
    assert "delivery.stale" not in plane.log()


async def test_an_edge_that_serves_another_leaf_over_quic_is_found_and_named(plane, edge, tmp_path):
    """Over TCP all is well: whoever looks there alone never sees it."""
    other = SITES.issue([NAME])
    await upload(plane, tmp_path, "first", SITES.issue([NAME]))
    running, address = await edge([other.write(tmp_path, "other")])
    await until(running.live)

    async def register(*more):
        await plane.command(
            "targets", "add", "edge-1", "--identity", EDGE, "--node", "edge-1", "--probe", address, *more
        )

    async def why():
        return (await plane.command("why", "www"))[1]

    async def proved():
        return "1 proved" in await why()

    async def named():
        return f"{address} over QUIC serves {fingerprint(other)[:16]}" in await why()

    await register("--secret", "www")
    await until(proved)
    await register("--http3")
    await until(named)
    code, verdict = await plane.command("probe", "www")
    _, seen = await plane.command("probe", address, "--server-name", NAME, "--http3")
    await register("--no-http3")
    await until(proved)

    assert (1, True) == (code, " FOREIGN " in verdict), verdict
    assert f"{address} over QUIC: certvoy never issued this leaf" in verdict
    assert (1, 1) == (seen.count(" OK "), seen.count(" FOREIGN ")), seen
