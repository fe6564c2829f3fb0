"""`certvoy doctor domain` beside a control plane that runs: a real CA, BIND, and our responder."""

import json
from copy import deepcopy

import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.bind import KEY_SECRET, Bind, Zone
from tests.support.ca_front import CaFront
from tests.support.control_plane import HOST, ControlPlane, dsn, until

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
    # Another, which answers, and that no zone here names.
    second = CaFront(tmp_path, upstream=caddy.directory_url, upstream_ca=caddy.ca_file)
    second.change("/directory", lambda document: document | {"meta": {"caaIdentities": ["second.example"]}})
    await second.open()
    plane.second = second
    plane.settings["secrets"] = {}
    await plane.start()
    yield plane
    await plane.stop()
    await second.shut()
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


async def test_a_secret_s_fallback_ca_that_may_not_issue_is_named_before_it_is_needed(plane, sql):
    """RFC 8659: a CAA record that names the first CA alone keeps every other one out."""
    second = plane.second

    async def looked():
        return await sql.fetchval("SELECT look_at > certvoy_now() + interval '30 minutes' FROM fallback_look")

    plane.settings["issuers"]["second"] = {
        "directory": second.directory_url,
        "ca_file": str(second.ca_file),
        "dns": deepcopy(plane.settings["issuers"]["internal"]["dns"]),  # YAML of ours has no aliases
    }
    plane.settings["secrets"] = {
        "theirs": {"domains": ["www.theirs.test"], "issuer": "internal", "fallback": ["second"]}
    }
    await plane.stop()
    await plane.start()
    port = str(plane.http01_port)
    code, said = await plane.command("doctor", "domain", "www.theirs.test", "--port", port, "--json")
    found = {item["check"]: item for item in json.loads(said)}
    await until(looked)
    _, why = await plane.command("why", "theirs")
    told = [entry for entry in plane.entries() if entry["event"] == "fallback.forbidden"]

    assert "✗ fallback to second: it may not issue for www.theirs.test, by CAA" in why
    assert 'remedy: add theirs.test. CAA 0 issue "second.example"' in why
    assert [("theirs", "second")] == [(entry["secret"], entry["issuer"]) for entry in told]
    assert 1 == code
    assert "failed" == found["caa of second"]["verdict"], said
    assert 'theirs.test. CAA 0 issue "second.example"' in found["caa of second"]["fix"]


async def test_a_name_that_is_our_account_s_own_is_known_once_there_is_an_account(plane, sql):
    async def look():
        _, said = await plane.command("doctor", "domain", "www.theirs.test", "--json")
        return next(item for item in json.loads(said) if item["check"] == "dns-account-01")

    async def registered():
        return await sql.fetchval("SELECT account_url FROM acme_account") is not None

    plane.settings["issuers"]["internal"]["challenges"] = {"*.theirs.test": "dns-account-01"}
    await plane.stop()
    await plane.start()
    before = await look()
    await plane.command("issue", "www", "--domain", "www.open.test")
    await until(registered)

    assert ("warning", "ok") == (before["verdict"], (await look())["verdict"])
    assert "look again after the first order" in before["fix"]
