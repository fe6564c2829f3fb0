"""`certvoy doctor domain` beside a control plane that runs: a real CA, BIND, and our responder."""

import json

import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.bind import KEY_SECRET, Bind, Zone
from tests.support.control_plane import HOST, ControlPlane, dsn

pytestmark = pytest.mark.debian


@pytest.fixture
async def plane(tmp_path, connect):
    """A control plane whose only secret is another's: nothing of these names is ordered."""
    bind = await Bind.start(
        tmp_path / "bind",
        # The zone above is asked for CAA too, as a resolver would find it.
        [Zone("test"), Zone("open.test"), Zone("theirs.test", ['@ IN CAA 0 issue "other.example"'])],
    )
    port = free_port()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{port}")
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=port)
    (tmp_path / "tsig").write_text(KEY_SECRET)
    dns = {
        "provider": "rfc2136",
        "server": bind.address,
        "key_name": "certvoy",
        "key_secret": {"file": "tsig"},
        "nameservers": [bind.address],
        "resolvers": [bind.address],
    }
    plane.issuer(caddy.directory_url, caddy.ca_file, dns=dns)
    plane.settings["secrets"] = {}
    await plane.start()
    yield plane
    await plane.stop()
    await caddy.stop()
    await bind.stop()


async def test_it_says_what_is_well_and_what_to_mend(plane, sql):
    port = str(plane.http01_port)
    code, said = await plane.command("doctor", "domain", "www.open.test", "--port", port, "--json")
    found = {item["check"]: item for item in json.loads(said)}
    bad, words = await plane.command("doctor", "domain", "www.theirs.test", "--port", str(free_port()))
    wild, _ = await plane.command("doctor", "domain", "*.open.test", "--json")
    none, unknown = await plane.command("doctor", "domain", "www.open.test", "--issuer", "nobody")

    assert 0 == code, said
    assert {"ca", "caa", "address", f"http-01 at {HOST}"} == {*found}
    assert {"ok"} == {item["verdict"] for item in found.values()}
    assert 1 == bad
    assert "does not say by which name it is allowed" in words, "Caddy's CA has no caaIdentities"
    assert "or take the address out of DNS" in words
    assert 0 == wild
    assert 3 == none
    assert "there are internal" in unknown
    assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_token")
    assert 0 == await sql.fetchval("SELECT count(*) FROM certrotation")
