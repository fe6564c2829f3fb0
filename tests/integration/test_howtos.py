"""docs/how-to, page by page in one shell: real CAs, certvoy, Envoy. A page's variables alone are changed."""

import asyncio
import http.server
import sys
import threading
from pathlib import Path

import pytest

from sds_server.programs.child import free_port
from tests.support import pebble
from tests.support.pages import DOCS, Shell, declared, steps
from tests.support.pki import cert_pem

EDGE = DOCS / "how-to" / "edge-envoy-lets-encrypt.md"
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
@pytest.mark.timeout(300)
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
