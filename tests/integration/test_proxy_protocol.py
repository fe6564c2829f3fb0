"""Real programs that want the PROXY protocol before TLS hang up without it, and are proved with it."""

import hashlib
import json
import os
from contextlib import asynccontextmanager

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import ProbeFailed, Way, served_fingerprint
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from tests.support import caddy, debian, haproxy, traefik
from tests.support.control_plane import HOST, dsn, of_uploads, until
from tests.support.edge import upstream_of
from tests.support.pki import authority

EDGE = "spiffe://example.test/edge"
NAME = "www.example.test"
SITES = authority("Sites root")
PAIRS = [SITES.issue([NAME]), SITES.issue([NAME], key=rsa.generate_private_key(65537, 2048))]
"""Of two types, so that a look is two handshakes, and the second one our own client's."""

FILTER = {
    "name": "envoy.filters.listener.proxy_protocol",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    },
}


def fingerprint(pair):
    return hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).hexdigest()


@asynccontextmanager
async def of_envoy(directory, files, version):
    tls = {
        "tls_params": dict.fromkeys(
            ("tls_minimum_protocol_version", "tls_maximum_protocol_version"),
            f"TLSv{version.replace('.', '_')}",
        ),
        "tls_certificates": [
            {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
            for chain, key in files
        ],
    }
    listener = {
        "name": "www",
        "address": {"socket_address": {"address": HOST, "port_value": 0}},
        "listener_filters": [FILTER],
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "echo",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"
                        },
                    }
                ],
                "transport_socket": {
                    "name": "envoy.transport_sockets.tls",
                    "typed_config": {
                        "@type": "type.googleapis.com/"
                        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        "common_tls_context": tls,
                    },
                },
            }
        ],
    }
    config = {
        "node": {"id": "edge-1", "cluster": "edge"},
        "admin": {"address": {"socket_address": {"address": HOST, "port_value": 0}}},
        "static_resources": {"listeners": [listener]},
    }
    running = await envoy.start(json.dumps(config), directory)
    try:
        await until(running.live)
        yield f"{HOST}:{await running.listener_port('www')}"
    finally:
        await running.stop()


@asynccontextmanager
async def of_nginx(directory, files, version):
    port = free_port()
    certificates = "".join(f"ssl_certificate {chain}; ssl_certificate_key {key};\n" for chain, key in files)
    scratch = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = directory / "nginx.conf"
    config.write_text(f"""
{"user root;" if os.getuid() == 0 else ""} daemon off; pid {directory}/nginx.pid; events {{}}
http {{ {scratch} access_log off;
server {{ listen {HOST}:{port} ssl proxy_protocol; ssl_protocols TLSv{version}; {certificates} }} }}
""")
    argv = [debian.program("nginx", of="nginx"), "-p", directory, "-e", directory / "error.log", "-c", config]
    child = Child("nginx", argv, log=directory / "nginx.log", stop_signal=3)

    async def running():
        return (directory / "nginx.pid").exists()  # written when it listens

    await child.ready(running)
    try:
        yield f"{HOST}:{port}"
    finally:
        await child.stop()


@asynccontextmanager
async def of_haproxy(directory, files, version):
    for number, (chain, key) in enumerate(files):
        (directory / f"{number}.both.pem").write_bytes(chain.read_bytes() + key.read_bytes())
    certificates = " ".join(f"crt {directory}/{number}.both.pem" for number in range(len(files)))
    only = f"ssl-min-ver TLSv{version} ssl-max-ver TLSv{version}"
    program = haproxy.HAProxy(directory, f"accept-proxy ssl {certificates} {only}")
    await program.start()
    try:
        yield program.address
    finally:
        await program.stop()


@asynccontextmanager
async def of_traefik(directory, files, version):
    program = traefik.Traefik(directory)
    program.settings["entryPoints"]["websecure"]["proxyProtocol"] = {"trustedIPs": [HOST]}
    only = f"VersionTLS{version.replace('.', '')}"
    tls = {
        "certificates": [{"certFile": str(chain), "keyFile": str(key)} for chain, key in files[:1]],
        "options": {"default": {"minVersion": only, "maxVersion": only}},
    }
    (program.dynamic / "tls.yml").write_text(yaml.safe_dump({"tls": tls}))
    await program.start()
    try:
        yield program.address
    finally:
        await program.stop()


@asynccontextmanager
async def of_caddy(directory, files, version):
    chain, key = files[0]
    program = caddy.Caddy(directory, certificate=chain, key=key)
    text = program.config.read_text()
    wraps = "servers {\nlistener_wrappers {\nproxy_protocol {\nfallback_policy require\n}\ntls\n}\n}\n"
    text = text.replace("{\n", "{\n" + wraps, 1)
    text = text.replace(f"{chain} {key}", f"{chain} {key} {{\n\t\tprotocols tls{version} tls{version}\n\t}}")
    program.config.write_text(text)
    await program.start()
    try:
        yield program.address
    finally:
        await program.stop()


PROGRAMS = {
    "envoy": (of_envoy, PAIRS, True),
    "nginx": (of_nginx, PAIRS, True),
    "haproxy": (of_haproxy, PAIRS, True),
    "traefik": (of_traefik, PAIRS[:1], False),
    "caddy": (of_caddy, PAIRS[:1], True),
}
"""Each, which of the pairs it can serve side by side, and whether it can be made to want the header."""


@pytest.fixture
def files(tmp_path):
    return [pair.write(tmp_path, f"pair-{number}") for number, pair in enumerate(PAIRS)]


@pytest.mark.debian
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("program", PROGRAMS)
async def test_each_leaf_is_shown_to_who_sends_the_header(program, version, files, tmp_path):
    start, pairs, wants = PROGRAMS[program]
    async with start(tmp_path, files, version) as address:
        way = Way(address, proxy_protocol=True)
        seen = [await served_fingerprint(way, NAME, wanted=fingerprint(pair)) for pair in pairs]
        try:
            without = await served_fingerprint(address, NAME)
        except ProbeFailed as e:
            without = str(e).partition("; ")[2]

    assert [fingerprint(pair) for pair in pairs] == seen
    assert ("if it wants the PROXY protocol: --proxy-protocol" if wants else seen[0]) == without


@pytest.fixture
async def plane(tmp_path, connect):
    async with of_uploads(tmp_path, dsn(connect), identity=EDGE, names=["www"]) as plane:
        yield plane


@pytest.fixture
async def edge(plane, tmp_path):
    """An Envoy behind a load balancer, whose certificate is the control plane's."""
    certificate, key = plane.clients.issue(uris=[EDGE]).write(tmp_path, "edge")
    where = upstream_of(plane, certificate, key)
    config = json.loads(
        bootstrap(
            node_id="edge-1",
            cluster="edge",
            api=Api.DELTA,
            control_plane=where,
            listeners=[TlsListener("www", "www")],
        )
    )
    (listener,) = config["static_resources"]["listeners"]
    listener["listener_filters"] = [FILTER, *listener.get("listener_filters", [])]
    running = await envoy.start(json.dumps(config), tmp_path)
    yield running
    await running.stop()


async def test_a_target_behind_a_balancer_is_proved_once_it_says_so(plane, edge, files):
    """Without its word it stays unproved, and each command that looks says what to try."""

    async def certvoy(*words):
        return await plane.command(*words)

    chain, key = map(str, files[0])
    await certvoy("upload", "www", "--chain", chain, "--private-key", key)
    await until(edge.live)
    address = f"{HOST}:{await edge.listener_port('www')}"
    await certvoy("targets", "add", "edge-1", "--identity", EDGE, "--node", "edge-1", "--probe", address)
    without = [
        await certvoy("targets", "test", "edge-1"),
        await certvoy("probe", "www"),
        await certvoy("probe", address, "--server-name", NAME),
        await certvoy("show", address, "--server-name", NAME),
    ]
    said = await certvoy("targets", "add", "edge-1", "--proxy-protocol")

    async def proved():
        return "1 proved" in (await certvoy("why", "www"))[1]

    await until(proved)
    with_it = [
        await certvoy("targets", "test", "edge-1"),
        await certvoy("probe", "www"),
        await certvoy("probe", address, "--server-name", NAME, "--proxy-protocol"),
        await certvoy("show", address, "--server-name", NAME, "--proxy-protocol"),
    ]

    assert 0 not in [code for code, _ in without]
    assert all("--proxy-protocol" in words for _, words in without), without
    assert "by the PROXY protocol first" in said[1]
    assert [0] * 4 == [code for code, _ in with_it], with_it
