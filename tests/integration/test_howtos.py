"""docs/how-to, page by page in one shell: real CAs, certvoy, Envoy. A page's variables alone are changed."""

import asyncio
import http.server
import json
import re
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support import pebble
from tests.support.bind import KEY_SECRET, Bind, Zone
from tests.support.envoy_files import FILES, validated
from tests.support.pages import DOCS, Shell, blocks, declared, section, steps
from tests.support.pki import authority, cert_pem

EDGE = DOCS / "how-to" / "edge-envoy-lets-encrypt.md"
WILDCARDS = DOCS / "how-to" / "wildcards.md"
ON_DEMAND = DOCS / "how-to" / "on-demand.md"
SIDECAR = DOCS / "how-to" / "mesh-sidecar-internal-ca.md"
PROGRAMS = Path(sys.executable).parent
HOST = "127.0.0.1"


def address():
    return f"{HOST}:{free_port()}"


def follow(page, shell, values):
    """Run the page: its first block declares what is a reader's own, and gets these values."""
    variables, *rest = steps(page.read_text())
    shell.run(declared(variables.commands, values))
    for step in rest:
        shell.follow(step)


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "page"
    directory.mkdir()
    return directory


@pytest.fixture
def application():
    """What is behind an Envoy: it answers 200 to everything."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_words):
            pass

    server = http.server.ThreadingHTTPServer((HOST, 0), Answers)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield f"{HOST}:{server.server_port}"
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.fixture
def lets_encrypt(tmp_path):
    """Staging and production, which ask at the same port; the world trusts the roots of production alone."""
    http_port, started = free_port(), []
    try:
        for name in ("staging", "production"):
            (tmp_path / name).mkdir()
            started.append(pebble.start(tmp_path / name, http_port=http_port))
        yield started
    finally:
        for ca in started:
            asyncio.run(ca.stop())


@pytest.mark.debian
@pytest.mark.timeout(600)
def test_an_edge_gets_its_certificate_from_lets_encrypt_through_its_own_port_80(
    lets_encrypt, application, directory, tmp_path
):
    """Pebble asks at Envoy's listener, and nothing else leads from there to the responder."""
    staging, production = lets_encrypt
    roots = [ca.ca_file.read_bytes() for ca in lets_encrypt] + [cert_pem(asyncio.run(production.root()))]
    trusted = tmp_path / "ca-certificates.crt"  # what a machine trusts, as OpenSSL and curl are told
    trusted.write_bytes(b"".join(roots))
    env = dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(trusted))
    shell = Shell(directory, path=[PROGRAMS], env=env)
    try:
        follow(
            EDGE,
            shell,
            {
                "DOMAIN": "www.example.test",
                "STAGING": staging.directory_url,
                "PRODUCTION": production.directory_url,
                "LISTEN": HOST,
                "HTTP": staging.http_port,
                "HTTPS": free_port(),
                "APP": application,
                "RESPONDER": address(),
                "SDS": address(),
                "API": address(),
            },
        )
    finally:
        shell.end()

    assert (2, 1) == (staging.issued(), production.issued())


@pytest.fixture
def step_ca(tmp_path):
    """Caddy, whose certificates live a day; it asks at the port of `step_ca.http_port`."""
    (tmp_path / "ca").mkdir()
    http_port = free_port()
    caddy = asyncio.run(Caddy.start(tmp_path / "ca", responder=f"{HOST}:{http_port}"))
    caddy.http_port = http_port
    yield caddy
    asyncio.run(caddy.stop())


@pytest.mark.timeout(600)
def test_a_sidecar_of_a_mesh_gets_its_certificate_from_an_internal_ca(step_ca, application, directory):
    """The CA asks at the sidecar's port 80, and nothing else leads from there to the responder."""
    other_mesh = authority("mesh, renewed")
    shell = Shell(directory, path=[PROGRAMS])
    try:
        follow(
            SIDECAR,
            shell,
            {
                "DOMAIN": "orders.internal.example",
                "TRUST_DOMAIN": "example.test",
                "CA": step_ca.directory_url,
                "CA_ROOT": step_ca.ca_file,
                "LISTEN": HOST,
                "INBOUND": free_port(),
                "HTTP": step_ca.http_port,
                "ADMIN": address(),
                "SERVICE": application,
                "RESPONDER": address(),
                "SDS": address(),
                "CONFIGS": FILES,
            },
        )
        issued = json.loads(shell.run("certvoy ls --certificates --json"))
        refusals = shell.run('curl --silent "http://$ADMIN/stats?filter=ssl.fail_verify_no_cert"')
        # A caller of another CA is let in when that is in the bundle, and not before.
        caller = other_mesh.issue(uris=["spiffe://example.test/ns/shop/sa/web"])
        chain, key = caller.write(directory, "newcomer")
        before = shell.run(f"call --cert {chain} --key {key} || true")
        (directory / "other.crt").write_bytes(other_mesh.pem)
        shell.run(
            "cat mesh/ca.crt other.crt > orders-id/root.new; mv orders-id/root.new orders-id/root-cert.pem"
        )
        shell.run(f"until call --cert {chain} --key {key}; do sleep 1; done")
    finally:
        shell.end()

    assert 3 == len(issued)
    for certificate in issued:
        begins, ends, renewed = (
            datetime.fromisoformat(certificate[date]) for date in ("not_before", "not_after", "renew_at")
        )
        assert timedelta(hours=24) <= ends - begins <= timedelta(hours=24, minutes=2)
        assert 0.5 <= (renewed - begins) / (ends - begins) <= 0.53
    assert re.search(r"^listener\.\S+no_cert: [1-9]", refusals, re.MULTILINE), refusals
    assert "000\n" == before


@pytest.mark.timeout(600)
def test_a_certificate_is_issued_for_what_a_client_asks_for(step_ca, directory):
    """The CA asks at Envoy's port 80, and nothing else leads from there to the responder."""
    shell = Shell(directory, path=[PROGRAMS])
    try:
        follow(
            ON_DEMAND,
            shell,
            {
                "CA": step_ca.directory_url,
                "CA_ROOT": step_ca.ca_file,
                "LISTEN": HOST,
                "HTTP": step_ca.http_port,
                "HTTPS": free_port(),
                "RESPONDER": address(),
                "SDS": address(),
                "API": address(),
                "MAY": address(),
            },
        )
    finally:
        shell.end()


def test_envoy_takes_what_the_page_says_of_spire(directory):
    """Put into the sidecar's bootstrap as it says; the agent itself is not here."""
    tls, agent = [yaml.safe_load(block) for block in blocks(section(SIDECAR, "SPIRE without files"), "yaml")]
    bootstrap = yaml.safe_load((FILES / "sidecar-sds.yaml").read_text())
    resources = bootstrap["static_resources"]
    (certvoy,) = [cluster for cluster in resources["clusters"] if cluster["name"] == "certvoy"]
    certvoy["transport_socket"]["typed_config"] |= tls
    inbound = resources["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
    del inbound["common_tls_context"]["validation_context_sds_secret_config"]
    callers = tls["common_tls_context"]["combined_validation_context"]
    inbound["common_tls_context"]["combined_validation_context"] = callers
    resources["clusters"].append(agent)
    path = directory / "sidecar.yaml"
    path.write_text(yaml.safe_dump(bootstrap))

    assert "" == validated(path)


@pytest.fixture
def zone(tmp_path):
    """The zone of the page with the policy of the page, at a real BIND that the CA asks too."""
    granted = re.findall(r"grant certvoy (name _acme-challenge\S+ TXT);", WILDCARDS.read_text())
    policy = "; grant certvoy ".join(granted).replace("example.com", "example.test")
    bind = asyncio.run(Bind.start(tmp_path / "bind", [Zone("example.test", policy=policy)]))
    yield bind
    asyncio.run(bind.stop())


@pytest.mark.debian
def test_a_wildcard_is_proved_by_dns_and_leaves_nothing_there(zone, directory, tmp_path):
    (tmp_path / "pebble").mkdir()
    ca = pebble.start(tmp_path / "pebble", dns_server=zone.address)
    (directory / "tsig.key").write_text(KEY_SECRET)
    shell = Shell(directory, path=[PROGRAMS], env={"SSL_CERT_FILE": str(ca.ca_file)})
    try:
        follow(
            WILDCARDS,
            shell,
            {
                "DOMAIN": "example.test",
                "DIRECTORY": ca.directory_url,
                "PRIMARY": zone.address,
                "NAMESERVERS": f"'[\"{zone.address}\"]'",
                "RESPONDER": address(),
                "SDS": address(),
            },
        )
        left = asyncio.run(zone.txt("_acme-challenge.example.test"))
    finally:
        shell.end()
        asyncio.run(ca.stop())

    assert (1, set()) == (ca.issued(), left)
