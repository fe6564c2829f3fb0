"""One question, one answer: FetchSecrets over gRPC, and the REST form over HTTPS."""

import asyncio
import base64
import io
import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import aiohttp
import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.protobuf.json_format import ParseDict
from structlog.testing import capture_logs

from sds_server.config.values import Listen
from sds_server.errors import Unavailable
from sds_server.identity import Grant, Grants, Trust
from sds_server.xds import codec, rest
from sds_server.xds.catalog import ABSENT, PENDING, Resource
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.limits import Limits
from sds_server.xds.server import FETCH, SDS
from tests.support.clocks import TurnedClock
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed

PAIR = authority().issue(dns=["a.test"])
FORMS = ["grpc", "rest"]


class Answer(NamedTuple):
    """``status`` is gRPC's name of it, or the number of HTTP's; ``version``, or the words of a refusal."""

    status: str | int
    names: list[str]
    version: str


both = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path) as deployment:
        yield deployment


async def ask(server, form, *names, node="n", version="", type_url=TYPE_URL, client=None):
    """Ask once on a connection of its own."""
    return await {"grpc": ask_grpc, "rest": ask_rest}[form](
        server, names, node=node, version=version, type_url=type_url, client=client
    )


async def ask_grpc(server, names, *, node, version, type_url, client):
    request = pb.DiscoveryRequest(
        node=Node(id=node) if node else None, resource_names=names, version_info=version, type_url=type_url
    )
    async with server.channel(client) as channel:
        try:
            data = await channel.unary_unary(f"/{SDS}/{FETCH}")(
                request.SerializeToString(), timeout=TIMEOUT_S
            )
        except grpc.aio.AioRpcError as e:
            return Answer(e.code().name, [], e.details())
    response = pb.DiscoveryResponse.FromString(data)
    assert (TYPE_URL, "replica-1", "") == (
        response.type_url,
        response.control_plane.identifier,
        response.nonce,
    )
    secrets = [Secret.FromString(one.value) for one in response.resources]
    return Answer("OK", [secret.name for secret in secrets], response.version_info)


def https(server, client=None, *, certificate=True, newest=None):
    """Return a session of a client's, by default the edge's."""
    context = ssl.create_default_context(cadata=server.servers_ca.pem.decode())
    if certificate:
        pair = client or server.clients_ca.issue(uris=[EDGE])
        context.load_cert_chain(*pair.write(server.directory, "poller"))
    if newest is not None:
        context.maximum_version = newest
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
    )


def url(server, path=rest.PATH):
    return f"https://localhost:{server.rest_port}{path}"


async def ask_rest(server, names, *, node, version, type_url, client):
    body = {
        "node": {"id": node},
        "resource_names": list(names),
        "version_info": version,
        "type_url": type_url,
    }
    async with https(server, client) as http, http.post(url(server), json=body) as response:
        if response.status != 200:
            return Answer(response.status, [], await response.text())
        message = await response.json()
    assert TYPE_URL == message["type_url"]
    return Answer(200, [one["name"] for one in message["resources"]], message["version_info"])


OK = {"grpc": "OK", "rest": 200}
NOT_LOADED = {"grpc": "UNAVAILABLE", "rest": 503}
UNAUTHENTICATED = {"grpc": "UNAUTHENTICATED", "rest": 401}
INVALID = {"grpc": "INVALID_ARGUMENT", "rest": 400}
EXHAUSTED = {"grpc": "RESOURCE_EXHAUSTED", "rest": 429}
NOTHING = {"grpc": "OK", "rest": 404}
"""Unary has a form for "none of them"; a poll must not get a body without resources."""


@both
async def test_what_exists_comes_in_one_answer_in_the_order_asked(server, form):
    server.catalog.publish({"c": ABSENT})
    server.grants = Grants([Grant(EDGE, ("a", "b", "c"))])
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    answer = await ask(server, form, "b", "c", "a", "b", "", "*", "x" * 513)

    assert (OK[form], ["b", "a"]) == answer[:2]
    assert [("sent", "n", "b", 1), ("sent", "n", "a", 1)] == [
        fact for fact in server.witness.facts if fact[0] == "sent"
    ]


@both
@pytest.mark.parametrize("entry", [ABSENT, PENDING], ids=["absent", "being-issued"])
async def test_nothing_is_there(server, form, entry):
    server.catalog.publish({"a": entry})

    assert (NOTHING[form], []) == (await ask(server, form, "a"))[:2]


@both
async def test_no_names_are_nothing_and_never_all(server, form):
    server.publish("a", 1, PAIR)

    assert (NOTHING[form], []) == (await ask(server, form))[:2]


@both
async def test_the_peer_is_a_target_while_it_fetches(server, form):
    server.publish("a", 1, PAIR)
    await ask(server, form, "a")

    assert server.witness.facts == [
        ("subscribed", "n", "a"),
        ("sent", "n", "a", 1),
        ("disconnected", "n", "a"),
    ]
    assert {} == server.catalog._watchers


@both
async def test_of_one_name_the_version_is_that_of_the_streams_and_of_many_one_of_all(server, form):
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    alone = (await ask(server, form, "a")).version
    together = (await ask(server, form, "a", "b")).version

    assert server.catalog.look("a").version == alone
    assert together == (await ask(server, form, "b", "a")).version
    server.publish("b", 2, authority().issue(dns=["b.test"]))
    assert together != (await ask(server, form, "a", "b")).version
    assert alone == (await ask(server, form, "a")).version


@both
async def test_a_name_that_the_peer_may_not_see_looks_absent_is_told_once_and_never_loaded(server, form):
    wanted = []
    server.catalog.on_want = wanted.append
    server.publish("a", 1, PAIR)
    with capture_logs() as logs:
        answers = [await ask(server, form, "a", "other") for _ in range(3)]

    assert [["a"]] * 3 == [answer.names for answer in answers]
    assert [("denied", "n", "other")] == [fact for fact in server.witness.facts if fact[0] == "denied"]
    assert [{"secret": "other", "identity": EDGE, "node": "n"}] == [
        {key: line[key] for key in ("secret", "identity", "node")}
        for line in logs
        if line["event"] == "secret.denied"
    ]
    assert [] == wanted


@both
async def test_only_what_may_not_be_seen_is_the_answer_of_nothing(server, form):
    server.publish("other", 1, PAIR)

    assert (NOTHING[form], []) == (await ask(server, form, "other"))[:2]


@both
async def test_a_name_is_loaded_for_who_asks(server, form):
    server.catalog.on_want = lambda name: asyncio.get_running_loop().call_soon(server.publish, name, 1, PAIR)

    assert (OK[form], ["a", "b"]) == (await ask(server, form, "a", "b"))[:2]


@both
async def test_what_is_not_loaded_in_time_is_not_called_absent(tmp_path, form):
    clock = TurnedClock()
    async with deployed(tmp_path, clock=clock) as server:
        server.publish("a", 1, PAIR)
        asking = asyncio.create_task(ask(server, form, "a", "b"))
        async with asyncio.timeout(TIMEOUT_S):
            while not clock.sleeping:
                await asyncio.sleep(0.01)
        clock.turn(timedelta(seconds=5))

        assert NOT_LOADED[form] == (await asking).status
        assert [] == [fact for fact in server.witness.facts if fact[0] == "sent"]


@both
async def test_a_right_that_is_lost_while_the_name_is_loaded_is_lost(server, form):
    def load(name):
        server.grants = Grants([])
        server.publish(name, 1, PAIR)

    server.catalog.on_want = lambda name: asyncio.get_running_loop().call_soon(load, name)

    assert [] == (await ask(server, form, "a")).names


@both
async def test_a_canary_gets_what_it_is_offered_and_others_what_they_are(server, form):
    server.publish("a", 1, PAIR)
    old = server.catalog.look("a")
    new = Resource("a", "new", 2, codec.tls_certificate("a", PAIR.chain_pem, PAIR.key_pem))
    server.catalog.offer("a", old, {(EDGE, "canary"): new})

    assert "new" == (await ask(server, form, "a", node="canary")).version
    assert old.version == (await ask(server, form, "a", node="other")).version


@both
async def test_what_the_peer_refused_on_a_stream_is_not_fetched_but_the_one_before(server, form):
    server.publish("a", 2, PAIR)
    new = server.catalog.look("a")
    server.witness.refused_before = frozenset({("a", new.version)})
    assert (NOTHING[form], []) == (await ask(server, form, "a"))[:2]

    old = Resource("a", "old", 1, new.body)
    server.catalog.offer("a", new, {}, before=old)
    assert "old" == (await ask(server, form, "a")).version


@both
async def test_a_chain_without_its_key_is_not_fetched(server, form):
    server.catalog.publish({"a": Resource("a", "v", 1, b"", keyless=True)})

    assert (NOTHING[form], []) == (await ask(server, form, "a"))[:2]


@both
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"node": ""}, "node.id is required"),
        ({"node": "n" * 513}, "node.id: at most 512"),
        ({"type_url": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}, "type_url must be"),
    ],
)
async def test_what_breaks_the_protocol_is_said(server, form, asked, message):
    answer = await ask(server, form, "a", **asked)

    assert INVALID[form] == answer.status
    assert message in answer.version


@both
async def test_an_empty_type_means_secret(server, form):
    server.publish("a", 1, PAIR)

    assert ["a"] == (await ask(server, form, "a", type_url="")).names


@both
async def test_a_certificate_that_names_nobody_is_refused(server, form):
    nobody = server.clients_ca.issue(ips=["127.0.0.1"])

    assert UNAUTHENTICATED[form] == (await ask(server, form, "a", client=nobody)).status


@both
async def test_who_is_denied_is_refused_by_whatever_certificate(server, form):
    server.publish("a", 1, PAIR)
    server.trust = Trust("certvoy", denied=[EDGE])
    answer = await ask(server, form, "a")

    assert UNAUTHENTICATED[form] == answer.status
    assert f"{EDGE} is denied" == answer.version


@both
async def test_one_identity_may_have_so_much_under_way(tmp_path, form):
    async with deployed(tmp_path) as server:
        server.server._service.limits._most = 1
        first = asyncio.create_task(ask(server, form, "a"))
        await server.witness.until("subscribed", "n", "a")
        second = await ask(server, form, "a", node="m")
        server.publish("a", 1, PAIR)

        assert EXHAUSTED[form] == second.status
        assert ["a"] == (await first).names
        assert ["a"] == (await ask(server, form, "a", node="m")).names


@both
async def test_names_that_do_not_exist_are_looked_up_only_so_fast(tmp_path, form):
    """Names that exist cost nothing."""
    clock = TurnedClock()
    async with deployed(tmp_path, names=["team/*"], clock=clock) as server:
        server.catalog.on_want = lambda name: asyncio.get_running_loop().call_soon(
            server.catalog.publish, {name: ABSENT}
        )
        names = [f"team/{number}" for number in range(6_000)]
        assert NOTHING[form] == (await ask(server, form, *names[:5_000])).status
        assert EXHAUSTED[form] == (await ask(server, form, *names[5_000:])).status

        server.publish("team/7", 1, PAIR)
        assert ["team/7"] == (await ask(server, form, "team/7")).names
        clock.turn(timedelta(seconds=1))
        assert NOTHING[form] == (await ask(server, form, *names[5_000:5_050])).status


# ---------------------------------------------------------------- gRPC alone


async def test_bytes_that_are_no_request_are_refused(server):
    async with server.channel() as channel:
        call = channel.unary_unary(f"/{SDS}/{FETCH}")(b"\xff\xff")

        assert grpc.StatusCode.INVALID_ARGUMENT is await call.code()


async def test_the_callers_deadline_is_kept(server):
    """It hears that nothing is loaded, and not only that its time is over."""
    request = pb.DiscoveryRequest(node=Node(id="n"), resource_names=["a"]).SerializeToString()
    async with server.channel() as channel:
        await channel.channel_ready()
        call = channel.unary_unary(f"/{SDS}/{FETCH}")(request, timeout=1.0)

        assert grpc.StatusCode.UNAVAILABLE is await call.code()


# ---------------------------------------------------------------- REST alone


async def test_the_body_is_a_secret_in_envoys_json(server):
    server.publish("a", 1, PAIR)
    body = {"node": {"id": "n"}, "resource_names": ["a"]}
    async with https(server) as http, http.post(url(server), json=body) as response:
        (resource,) = (message := await response.json())["resources"]
        headers = response.headers

    assert TYPE_URL == resource.pop("@type")
    secret = ParseDict(resource, Secret())
    assert PAIR.chain_pem == secret.tls_certificate.certificate_chain.inline_bytes
    assert PAIR.key_pem == base64.b64decode(resource["tls_certificate"]["private_key"]["inline_bytes"])
    assert "replica-1" == message["control_plane"]["identifier"]
    assert ("application/json", "no-store") == (
        headers["content-type"],
        headers["cache-control"],
    )


async def test_who_has_the_current_version_gets_no_body(server):
    server.publish("a", 1, PAIR)
    version = (await ask(server, "rest", "a")).version
    server.witness.facts.clear()

    assert (304, [], "") == await ask(server, "rest", "a", version=version)
    assert [("subscribed", "n", "a"), ("disconnected", "n", "a")] == server.witness.facts


async def test_the_version_of_other_names_is_not_current(server):
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    version = (await ask(server, "rest", "a")).version

    assert ["a", "b"] == (await ask(server, "rest", "a", "b", version=version)).names


async def test_a_new_version_comes_with_the_next_poll(server):
    server.publish("a", 1, PAIR)
    version = (await ask(server, "rest", "a")).version
    server.publish("a", 2, authority().issue(dns=["a.test"]))

    assert ["a"] == (await ask(server, "rest", "a", version=version)).names


async def test_camel_case_is_read_as_well_and_a_large_node_is_no_matter(server):
    server.publish("a", 1, PAIR)
    version = server.catalog.look("a").version
    node = {"id": "n", "extensions": [{"name": "x" * 1000}] * 900}
    body = {"node": node, "resourceNames": ["a"], "versionInfo": version, "typeUrl": TYPE_URL}
    async with https(server) as http, http.post(url(server), json=body) as response:
        assert 304 == response.status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"node": 1}',
        b'{"node": {"id": 1}}',
        b'{"node": {"id": "n"}, "resource_names": "a"}',
        b'{"node": {"id": "n"}, "resource_names": [1]}',
        b'{"node": {"id": "n"}, "resource_names": ["\\ud800"]}',
        b'{"node": {"id": "\\ud800"}}',
        b"[" * 100_000,
        json.dumps({"node": {"id": "n"}, "version_info": {}}).encode(),
    ],
    ids=repr,
)
async def test_what_is_no_request_is_refused_and_nothing_of_it_repeated(server, body):
    async with https(server) as http, http.post(url(server), data=body) as response:
        text = await response.text()

    assert 400 == response.status
    assert len(text) < 80


async def test_more_than_a_mebibyte_is_too_much(server):
    async with (
        https(server) as http,
        http.post(url(server), data=io.BytesIO(b" " * (1024 * 1024 + 1))) as response,
    ):
        assert 413 == response.status


async def test_other_methods_and_other_types_are_not_there(server):
    async with https(server) as http:
        async with http.get(url(server)) as response:
            assert (405, "POST") == (response.status, response.headers["allow"])
        for path in ("/v3/discovery:clusters", "/", "/v2/discovery:secrets", "/v3/discovery:secrets/a"):
            async with http.post(url(server, path), json={}) as response:
                assert 404 == response.status


async def test_without_a_certificate_or_below_tls_1_3_there_is_no_connection(server):
    for options in ({"certificate": False}, {"newest": ssl.TLSVersion.TLSv1_2}):
        async with https(server, **options) as http:
            with pytest.raises(aiohttp.ClientError):
                await http.post(url(server), json={})


async def test_a_certificate_that_expires_ends_the_connection_that_it_opened(server):
    server.publish("a", 1, PAIR)
    soon = datetime.now(UTC) + timedelta(seconds=2)
    body = {"node": {"id": "n"}, "resource_names": ["a"]}
    async with https(server, server.clients_ca.issue(uris=[EDGE], not_after=soon)) as http:
        first = await http.post(url(server), json=body)
        await first.read()
        async with asyncio.timeout(TIMEOUT_S):
            while (response := await http.post(url(server), json=body)).status == 200:
                await response.read()
                await asyncio.sleep(0.1)

    assert (200, 401) == (first.status, response.status)
    assert "close" == response.headers["connection"].lower()


async def test_an_old_connection_ends_with_its_answer(tmp_path):
    clock = TurnedClock()
    async with deployed(tmp_path, clock=clock) as server:
        server.publish("a", 1, PAIR)
        body = {"node": {"id": "n"}, "resource_names": ["a"]}
        async with https(server) as http:
            for elapsed, expected in ((0, None), (44, None), (2, "close")):
                clock.turn(timedelta(minutes=elapsed))
                async with http.post(url(server), json=body) as response:
                    await response.read()
                    assert expected == response.headers.get("connection")


async def test_a_port_in_use_is_named(server):
    server.rest._listen = Listen("127.0.0.1", server.rest_port)
    with pytest.raises(Unavailable, match=rf"sds.rest: cannot listen on 127.0.0.1:{server.rest_port}"):
        await server.rest.start()


async def test_it_answers_in_time_for_envoy_although_nothing_is_loaded(server):
    """Envoy waits for one second."""
    started = time.monotonic()
    answer = await ask(server, "rest", "a")

    assert 503 == answer.status
    assert 0.7 < time.monotonic() - started


def test_a_bucket_is_full_again_after_its_time():
    clock = TurnedClock()
    limits = Limits(clock)
    assert [True] * 5_000 + [False] == [limits.may_look_up(EDGE) for _ in range(5_001)]

    clock.turn(timedelta(seconds=1))
    assert [True] * 50 + [False] == [limits.may_look_up(EDGE) for _ in range(51)]
    assert limits.may_look_up("spiffe://td.test/other")


@pytest.mark.parametrize("form", FORMS)
async def test_more_names_at_once_than_a_grant_lets_an_identity_want_are_not_there(server, form):
    server.grants = Grants([Grant(EDGE, ("a", "b"), max_names=1)])
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    both = await ask(server, form, "a", "b")
    again = await ask(server, form, "b")

    assert (OK[form], ["a"]) == (both.status, both.names)
    assert (OK[form], ["b"]) == (again.status, again.names)
    assert [("denied", "n", "b")] == [fact for fact in server.witness.facts if fact[0] == "denied"]


async def test_a_client_ca_that_is_trusted_no_more_lets_nobody_in(server):
    """Without a restart, as on the streams; and one that came does."""
    server.publish("a", 1, PAIR)
    before = await ask(server, "rest", "a")
    other = authority("Others")
    other.write(server.files["client_ca"])
    after = await ask(server, "rest", "a", client=other.issue(uris=[EDGE]))

    assert (200, 200) == (before.status, after.status)
    with pytest.raises(aiohttp.ClientError):
        await ask(server, "rest", "a")


async def test_the_next_connection_is_shown_the_renewed_certificate(server):
    server.publish("a", 1, PAIR)
    renewed = server.servers_ca.issue(dns=["localhost"])
    renewed.write(server.directory, "server")
    context = ssl.create_default_context(cadata=server.servers_ca.pem.decode())
    context.load_cert_chain(*server.clients_ca.issue(uris=[EDGE]).write(server.directory, "poller"))
    _, writer = await asyncio.open_connection("localhost", server.rest_port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()

    assert renewed.certificate.public_bytes(Encoding.DER) == shown


async def test_who_connects_and_begins_no_handshake_is_hung_up_on(tmp_path, monkeypatch):
    monkeypatch.setattr(rest, "HANDSHAKE_S", 0.1)
    async with deployed(tmp_path) as server:
        reader, writer = await asyncio.open_connection("localhost", server.rest_port)
        async with asyncio.timeout(TIMEOUT_S):
            said = await reader.read()
        writer.close()

    assert b"" == said


@both
async def test_who_need_not_call_itself_anything_counts_as_its_identity(server, form):
    server.require_node = False
    await server.stop()
    await server.start()
    server.publish("a", 1, PAIR)
    answer = await ask(server, form, "a", node="")

    assert (OK[form], ["a"]) == (answer.status, answer.names)
    assert ("sent", EDGE, "a", 1) in server.witness.facts


@both
async def test_who_asks_a_sealed_replica_is_sent_to_another_at_once(server, form):
    server.catalog.publish({"a": Resource("a", "v1", 1, codec.tls_certificate("a", b"chain", b"key"))})
    server.catalog.close()

    answer = await ask(server, form, "a")

    assert ({"grpc": "UNAVAILABLE", "rest": 503}[form], []) == (answer.status, answer.names)
    assert "sealed" in answer.version
