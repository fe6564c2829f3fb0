"""Port 80 is a web server's: a real nginx serves the tokens as files, and nothing leads to our responder."""

import asyncio

import pytest

from sds_server.programs.child import Child, free_port
from tests.support import debian, pebble
from tests.support.control_plane import HOST, ControlPlane, dsn, until

pytestmark = pytest.mark.debian

CONFIG = """\
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;
    uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;
    server {{ listen {host}:{port}; root {root}; }}
}}
"""


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    running = pebble.start(tmp_path_factory.mktemp("pebble"), http_port=free_port())
    yield running
    asyncio.run(running.stop())


async def test_the_tokens_are_files_of_a_web_server_and_go_again(tmp_path, connect, ca, sql):
    root, home = tmp_path / "www", tmp_path / "nginx"
    root.mkdir()
    home.mkdir()
    tmp_path.chmod(0o755)
    config = home / "nginx.conf"
    config.write_text(CONFIG.format(home=home, host=HOST, port=ca.http_port, root=root))
    nginx = Child(
        "nginx",
        [debian.program("nginx", of="nginx"), "-p", home, "-e", "stderr", "-c", config, "-g", "user root;"],
        log=home / "nginx.log",
    )
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.settings["http01"]["webroot"] = str(root)
    plane.issuer(ca.directory_url, ca.ca_file, terms_agreed=True)
    await plane.start()
    try:

        async def issued():
            return await sql.fetchval("SELECT count(*) FROM certificate") == 1

        await until(issued)
    finally:
        await plane.stop()
        await nginx.stop()

    assert [] == [*(root / ".well-known" / "acme-challenge").iterdir()]
    assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_token")
