"""Targets over the API: registered, seen, forgotten, and what a handshake shows there."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web

from sds_server.inventory import certificates, deliveries, on_demand, secrets
from sds_server.inventory.deliveries import News
from sds_server.lifecycle.instances import Instance
from sds_server.model import Identity
from sds_server.on_demand.rules import Rule
from sds_server.targets.verdict import UNLISTED
from tests.support import fakes
from tests.support.admin import serving as api_of
from tests.support.pki import authority
from tests.support.quic_server import QuicListener
from tests.support.roll_outs import rolling_out

EDGE = Identity("spiffe://example.test/edge")
HOST = "127.0.0.1"


@asynccontextmanager
async def serving(directory, chain_pem, key_pem):
    """A TLS server that shows this leaf."""
    (directory / "leaf.pem").write_bytes(chain_pem)
    (directory / "leaf.key").write_bytes(key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0, ssl=context)
    async with server:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"


async def pair_of(issuances, certificate):
    """The key of what is stored, as PEM."""
    from acme_engine import keys

    (pair,) = await certificates.pairs(issuances.database, [certificate.id])
    return pair.certificate.chain_pem, keys.pem(keys.load_pkcs8(await issuances.sealer.open(pair.key)))


async def test_who_is_pushed_to_is_no_envoy_and_a_kind_that_is_known_stays(database, tmp_path):
    """An Envoy's own word proves nothing: an agent that is taken for one could complete no rotation."""
    async with api_of(database, tmp_path, allowed=["127.0.0.0/8"]) as api:

        async def kind(name, **body):
            return (await api.local("PUT", f"/v1/targets/{name}", json=body)).json["kind"]

        push = {"push": "https://127.0.0.1:8446", "identity": "spiffe://certvoy/proxy/web-1"}

        assert "envoy" == await kind("edge-1", probe="127.0.0.1:443")
        assert "files" == await kind("web-1", **push)
        assert "nginx" == await kind("web-1", kind="nginx")
        assert "nginx" == await kind("web-1", **push)
        assert "nginx" == await kind("web-1", probe="127.0.0.1:443")


async def test_what_is_put_is_registered_and_counts_for_its_secrets(api, issuances):
    await issuances.issue(await issuances.declare())

    put = await api.local(
        "PUT",
        "/v1/targets/edge-1",
        json={"probe": "edge.example.test:443", "kind": "nginx", "secrets": ["www"]},
    )

    assert ("nginx", True, "edge.example.test:443") == tuple(
        put.json[key] for key in ("kind", "registered", "probe")
    )
    (delivery,) = put.json["deliveries"]
    assert ("www", "never", 1) == (delivery["secret"], delivery["state"], delivery["current"])
    secret = await api.local("GET", "/v1/secrets/www")
    assert ["edge-1"] == [item["target"] for item in secret.json["deliveries"]]


async def test_an_admin_interface_is_put_and_stays_when_it_is_not_named(api):
    put = await api.local("PUT", "/v1/targets/edge-1", json={"admin": "127.0.0.1:9901"})
    again = await api.local("PUT", "/v1/targets/edge-1", json={"probe": "edge.example.test:443"})
    wrong = await api.local("PUT", "/v1/targets/edge-1", json={"admin": "nowhere"})

    assert ("127.0.0.1:9901", None) == (put.json["admin"], put.json["probe"])
    assert ("127.0.0.1:9901", "edge.example.test:443") == (again.json["admin"], again.json["probe"])
    assert 'admin address: must be host:port, got "nowhere"' == wrong.json["detail"]


@pytest.mark.parametrize("how", ["proxy_protocol", "http3"])
async def test_how_it_is_to_be_asked_is_in_the_list_of_proxies(api, how):
    await api.local("PUT", "/v1/targets/edge-1", json={"probe": "127.0.0.1:1", how: True})
    (listed,) = (await api.local("GET", "/v1/proxies")).json["items"]

    assert ("edge-1", True) == (listed["name"], listed[how])


@pytest.mark.parametrize("how", ["proxy_protocol", "http3"])
async def test_how_it_is_to_be_asked_is_put_and_stays_when_it_is_not_named(api, how):
    async def put(**body):
        return (await api.local("PUT", "/v1/targets/edge-1", json=body)).json[how]

    assert [False, True, True, False] == [
        await put(probe="edge.example.test:443"),
        await put(**{how: True}),
        await put(probe="edge.example.test:8443"),
        await put(**{how: False}),
    ]
    entries = (await api.local("GET", "/v1/audit?action=target.registered")).json["items"]
    assert [None, True, None, False] == [entry["detail"][how] for entry in entries][::-1]


async def test_what_was_seen_is_told_with_its_state_and_reason(api, issuances):
    await issuances.issue(await issuances.declare())
    await deliveries.write(
        api.database,
        [News(EDGE, "edge-1", "www", 1, None, 1, "KEY_VALUES_MISMATCH", "v1", timedelta(hours=1))],
        actor="test",
    )

    listed = await api.local("GET", "/v1/targets")

    (target,) = listed.json["items"]
    assert (False, EDGE) == (target["registered"], target["identity"])
    assert ("refused", "KEY_VALUES_MISMATCH") == tuple(
        target["deliveries"][0][key] for key in ("state", "reason")
    )
    assert target["last_seen"]


async def test_how_many_call_themselves_alike_is_told(api, issuances):
    await issuances.issue(await issuances.declare())
    twins = Instance("replica", streams=2)
    await deliveries.write(
        api.database,
        [News(EDGE, "edge-1", "www", 1, None, None, None, None, timedelta(hours=1), mine=twins)],
        actor="test",
    )

    listed = await api.local("GET", "/v1/targets")

    ((delivery,),) = [item["deliveries"] for item in listed.json["items"]]
    assert (2, "sent") == (delivery["instances"], delivery["state"])
    assert delivery["reason"].startswith("2 proxies call themselves edge-1: give each its own node.id")


async def test_a_forgotten_target_is_gone(api):
    await api.local("PUT", "/v1/targets/edge-1", json={"probe": "edge.example.test:443"})

    gone = await api.local("DELETE", "/v1/targets/edge-1")

    assert (204, 404) == (gone.status, (await api.local("GET", "/v1/targets/edge-1")).status)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"probe": "nowhere"}, 400),
        ({"admin": "nowhere"}, 400),
        ({"probe": "edge:443", "secrets": ["nobody"]}, 404),
        ({"probe": "edge:443", "identity": "somebody"}, 422),
        ({"probe": "edge:443", "kind": "toaster"}, 422),
        ({"probe": "edge:443", "node_id": "a\x00b"}, 422),
    ],
)
async def test_a_target_that_could_not_be_is_refused(api, body, status):
    assert status == (await api.local("PUT", "/v1/targets/edge-1", json=body)).status


async def test_a_handshake_tells_what_is_served(api, issuances, tmp_path):
    declared = await issuances.declare()
    first = await issuances.issue(declared)
    stale = await pair_of(issuances, first)
    await api.local("POST", "/v1/secrets/www/rotations")
    current = await pair_of(issuances, await issuances.issue(declared))
    foreign = authority("foreign").issue(dns=["www.example.test"])
    for name in ("good", "old", "strange"):
        (tmp_path / name).mkdir()
    async with (
        serving(tmp_path / "good", *current) as good,
        serving(tmp_path / "old", *stale) as old,
        serving(tmp_path / "strange", foreign.chain_pem, foreign.key_pem) as strange,
    ):
        for name, address in {"good": good, "old": old, "strange": strange, "gone": f"{HOST}:1"}.items():
            await api.local("PUT", f"/v1/targets/{name}", json={"probe": address, "secrets": ["www"]})
        await api.local("PUT", "/v1/targets/unknown", json={"secrets": ["www"]})

        everywhere = await api.local("POST", "/v1/secrets/www/probes")
        one = await api.local("POST", "/v1/secrets/www/probes?target=old")

    found = {item["target"]: item["verdict"] for item in everywhere.json["items"]}
    assert {
        "good": "ok",
        "old": "stale",
        "strange": "foreign",
        "gone": "unreachable",
        "unknown": "unprobed",
    } == found
    assert ["it serves generation 1, not 2"] == [item["reason"] for item in one.json["items"]]


async def test_each_place_that_an_address_leads_to_is_looked_at(api, issuances, tmp_path):
    """One of two serves the one before: it is the one that is told, wherever it stands."""
    declared = await issuances.declare()
    stale = await fakes.pair_of(issuances, await issuances.issue(declared))
    await api.local("POST", "/v1/secrets/www/rotations")
    current = await fakes.pair_of(issuances, await issuances.issue(declared))
    async with fakes.Listener(tmp_path) as first:
        port = int(first.address.rpartition(":")[2])
        async with fakes.Listener(tmp_path, host="127.0.0.2", port=port) as second:
            first.serve(current)
            second.serve(stale)
            body = {"probe": f"pool.test:{port}", "secrets": ["www"]}
            await api.local("PUT", "/v1/targets/pool", json=body)
            with fakes.leading("pool.test", "127.0.0.1", "127.0.0.2"):
                (item,) = (await api.local("POST", "/v1/secrets/www/probes")).json["items"]

    assert "stale" == item["verdict"]
    assert f"pool.test:{port} at 127.0.0.2:{port}: it serves generation 1, not 2" == item["reason"]


async def test_what_is_served_over_quic_is_looked_at_where_there_is_http3(api, issuances, tmp_path):
    declared = await issuances.declare()
    stale = await fakes.pair_of(issuances, await issuances.issue(declared))
    await api.local("POST", "/v1/secrets/www/rotations")
    current = await fakes.pair_of(issuances, await issuances.issue(declared))

    async def probe():
        (item,) = (await api.local("POST", "/v1/secrets/www/probes")).json["items"]
        return item["verdict"], item["reason"]

    async with fakes.Listener(tmp_path) as tcp, QuicListener(address := tcp.address) as beside:
        tcp.serve(current)
        beside.serve(stale)
        body = {"probe": address, "secrets": ["www"]}
        await api.local("PUT", "/v1/targets/edge-1", json=body)
        without = await probe()
        await api.local("PUT", "/v1/targets/edge-1", json={"http3": True})
        found = await probe()
        beside.serve(current)
        both = await probe()

    assert ("ok", None) == without == both
    assert ("stale", f"{address} over QUIC: it serves generation 1, not 2") == found


@asynccontextmanager
async def envoy_with(*certificates, host=HOST, port=0):
    """An Envoy's admin interface that says that these are loaded."""
    chains = [{"cert_chain": [{"serial_number": found.serial_number}]} for found in certificates]
    app = web.Application()

    async def certs(_):
        return web.json_response({"certificates": chains})

    app.router.add_get("/certs", certs)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_where_only_the_admin_interface_is_known_it_is_asked_what_is_loaded(api, issuances):
    declared = await issuances.declare()
    first = await issuances.issue(declared)
    await api.local("POST", "/v1/secrets/www/rotations")
    second = await issuances.issue(declared)
    async with envoy_with(second) as good, envoy_with(first, second) as old, envoy_with() as strange:
        for name, address in {"good": good, "old": old, "strange": strange, "gone": f"{HOST}:1"}.items():
            await api.local("PUT", f"/v1/targets/{name}", json={"admin": address, "secrets": ["www"]})

        reply = await api.local("POST", "/v1/secrets/www/probes")

    found = {item["target"]: item["verdict"] for item in reply.json["items"]}
    assert {"good": "ok", "old": "stale", "strange": "foreign", "gone": "unreachable"} == found


async def test_an_envoy_that_says_nothing_hides_no_other_of_its_name(api, issuances):
    declared = await issuances.declare()
    first = await issuances.issue(declared)
    await api.local("POST", "/v1/secrets/www/rotations")
    second = await issuances.issue(declared)

    async def probed(*loaded, silent="127.0.0.3"):
        async with envoy_with(*loaded, host="127.0.0.2") as envoy:
            body = {"admin": envoy.replace("127.0.0.2", "pool.test"), "secrets": ["www"]}
            await api.local("PUT", "/v1/targets/pool", json=body)
            with fakes.leading("pool.test", "127.0.0.2", silent):
                (item,) = (await api.local("POST", "/v1/secrets/www/probes")).json["items"]
        return item["verdict"], item["reason"]

    stale, why_stale = await probed(first)
    unreachable, why_unreachable = await probed(second)

    assert "stale" == stale
    assert "at 127.0.0.2:" in why_stale
    assert "unreachable" == unreachable
    assert "at 127.0.0.3:" in why_unreachable
    assert ("ok", None) == await probed(second, silent="127.0.0.2")


async def test_envoy_s_own_statement_is_not_asked_about_what_it_chose_on_demand(api, issuances):
    """It is not listed there: it would be called foreign, wherever it is served."""
    await on_demand.hold(api.database, ["shops"], lasts=timedelta(hours=1))
    shop = "a.shops.test"
    rule = Rule("shops", "internal", suffix=".shops.test", keep=timedelta(days=30))
    await on_demand.create(api.database, shop, rule, identity=EDGE, node_id="edge-1", actor="replica:test")
    await issuances.issue(await secrets.get(api.database, shop))
    async with envoy_with() as envoy:
        await api.local("PUT", "/v1/targets/edge-1", json={"admin": envoy, "secrets": [shop]})
        (item,) = (await api.local("POST", f"/v1/secrets/{shop}/probes")).json["items"]

    assert ("unprobed", UNLISTED) == (item["verdict"], item["reason"])


async def test_while_canaries_are_asked_all_others_are_well_with_the_one_before(
    api, issuances, sql, tmp_path
):
    (canary,), (other,) = await rolling_out(issuances, "edge-1", "edge-2")
    rows = await sql.fetch("SELECT id FROM certificate ORDER BY generation")
    before, new = [
        await pair_of(issuances, (await certificates.get(api.database, row["id"])).certificate)
        for row in rows
    ]
    (tmp_path / "before").mkdir()
    (tmp_path / "new").mkdir()
    async with (
        serving(tmp_path / "before", *before) as at_others,
        serving(tmp_path / "new", *new) as at_canaries,
    ):
        for name, address in {canary: at_canaries, other: at_others}.items():
            await api.local("PUT", f"/v1/targets/{name}", json={"probe": address})

        reply = await api.local("POST", "/v1/secrets/www/probes")

    assert {canary: "ok", other: "ok"} == {item["target"]: item["verdict"] for item in reply.json["items"]}


async def test_a_target_that_does_not_count_cannot_be_probed_for_it(api, issuances):
    await issuances.issue(await issuances.declare())

    assert 404 == (await api.local("POST", "/v1/secrets/www/probes?target=nobody")).status
    assert 404 == (await api.local("POST", "/v1/secrets/nobody/probes")).status
