"""The server over real gRPC channels with mutual TLS."""

import asyncio
import ssl
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb
from structlog.testing import capture_logs

from sds_server.errors import Unavailable
from sds_server.identity import Grant, Grants
from sds_server.model import Identity, Kind
from sds_server.xds import session
from sds_server.xds.caller import Caller
from sds_server.xds.catalog import ABSENT, PENDING, Resource
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import ADS, DELTA, OPTIONS, SDS
from sds_server.xds.stream import CLOSE_UNANSWERED_S, WARN_UNANSWERED_S
from tests.support.clocks import TurnedClock
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed

STATE_OF_THE_WORLD = f"/{SDS}/StreamSecrets"
DELTA_SECRETS = f"/{SDS}/DeltaSecrets"
DELTA_ADS = f"/{ADS}/DeltaAggregatedResources"
METHODS = [f"/{service}/{method}" for service, methods in DELTA.items() for method in methods]
SETTINGS, GOAWAY = 4, 7  # frame types of HTTP/2, RFC 9113 section 6
MAX_CONCURRENT_STREAMS = 3  # a setting, section 6.5.2
PAIR = authority().issue(dns=["a.test"])


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path) as deployment:
        yield deployment


class Client:
    """One stream of a channel; every wait is bounded."""

    def __init__(self, channel, method):
        self._delta = "Delta" in method
        self._call = channel.stream_stream(method)()

    async def send(self, *, node="n", type_url=TYPE_URL, names=(), unsubscribe=(), nonce="", error=None):
        common = {"type_url": type_url, "response_nonce": nonce}
        if node:
            common["node"] = Node(id=node)
        if error is not None:
            common["error_detail"] = {"message": error}
        if self._delta:
            message = pb.DeltaDiscoveryRequest(
                resource_names_subscribe=names, resource_names_unsubscribe=unsubscribe, **common
            )
        else:
            message = pb.DiscoveryRequest(resource_names=names, **common)
        await self.send_bytes(message.SerializeToString())

    async def send_bytes(self, data):
        await self._call.write(data)

    async def receive(self):
        async with asyncio.timeout(TIMEOUT_S):
            data = await self._call.read()
        assert data is not grpc.aio.EOF, await self.status()
        return (pb.DeltaDiscoveryResponse if self._delta else pb.DiscoveryResponse).FromString(data)

    async def status(self):
        """How it ended. Where that is as it opens, send nothing: a late write is told as INTERNAL."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self._call.code(), await self._call.details()

    async def leave(self):
        self._call.cancel()
        await self.status()


async def open_stream(server, method=DELTA_SECRETS, **request):
    client = Client(server.channel(), method)
    await client.send(**request)
    return client


@pytest.mark.parametrize("method", [*METHODS, f"/{SDS}/FetchSecrets"])
async def test_without_a_certificate_every_method_refuses(server, method):
    async with server.channel(certificate=False) as channel:
        call = channel.stream_stream(method)()

        async with asyncio.timeout(TIMEOUT_S):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE  # the handshake itself fails


async def test_a_certificate_of_another_ca_is_refused(server):
    async with server.channel(authority("Foreign").issue(uris=[EDGE])) as channel:
        call = channel.stream_stream(DELTA_SECRETS)()

        async with asyncio.timeout(TIMEOUT_S):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_that_names_nobody_is_refused(server):
    client = Client(server.channel(server.clients_ca.issue(ips=["127.0.0.1"])), DELTA_SECRETS)

    assert (await client.status())[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", METHODS)
async def test_a_secret_is_delivered_and_its_ack_credited(server, method):
    server.publish("a", 1, PAIR)
    client = await open_stream(server, method, names=["a"])
    response = await client.receive()
    await client.send(node="", names=[] if "Delta" in method else ["a"], nonce=response.nonce)
    await server.witness.until("accepted", "n", "a", 1)

    assert response.type_url == TYPE_URL
    assert response.control_plane.identifier == "replica-1"
    assert server.witness.facts == [
        ("subscribed", "n", "a"),
        ("sent", "n", "a", 1),
        ("accepted", "n", "a", 1),
    ]
    await client.leave()


async def test_a_refusal_is_told_scrubbed(server):
    server.publish("a", 1, PAIR)
    client = await open_stream(server, names=["a"])
    response = await client.receive()
    await client.send(nonce=response.nonce, error=f"bad key {PAIR.key_pem.decode()}")
    await server.witness.until("refused", "n", "a", 1)

    assert server.witness.detail == "bad key <removed>"
    await client.leave()


async def test_content_refused_before_a_restart_is_not_sent(server):
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    server.witness.refused_before = frozenset({("a", server.catalog.look("a").version)})
    client = await open_stream(server, names=["a", "b"])

    assert (await client.receive()).resources[0].name == "b"
    await client.leave()


async def test_a_name_that_the_peer_may_not_see_looks_absent_and_the_stream_goes_on(server):
    server.publish("a", 1, PAIR)
    server.publish("others/key", 1, PAIR)
    server.catalog.publish({"b": ABSENT})
    client = await open_stream(server, names=["others/key", "b", "a"])
    forbidden, absent, granted = [await client.receive() for _ in range(3)]

    assert forbidden.removed_resources == ["others/key"]
    assert absent.removed_resources == ["b"]
    assert granted.resources[0].name == "a"
    assert ("denied", "n", "others/key") in server.witness.facts
    assert ("denied", "n", "b") not in server.witness.facts
    await client.leave()


async def test_a_name_of_a_kind_that_the_peer_may_not_see_looks_absent_once_it_is_known(server):
    server.grants = Grants([Grant(EDGE, ("a", "b"), kinds=frozenset({Kind.TLS_CERTIFICATE}))])
    client = await open_stream(server, names=["a", "b"])
    await server.witness.until("subscribed", "n", "b")
    server.publish("b", 1, PAIR)
    server.catalog.publish({"a": replace(server.catalog.look("b"), name="a", kind=Kind.GENERIC_SECRET)})
    answers = [await client.receive() for _ in range(2)]
    await client.leave()

    assert ["a"] == [name for answer in answers for name in answer.removed_resources]
    assert ["b"] == [one.name for answer in answers for one in answer.resources]
    assert ("denied", "n", "a") in server.witness.facts


async def test_while_nothing_is_issued_of_it_a_name_of_another_kind_looks_absent_as_well(server):
    server.grants = Grants([Grant(EDGE, ("a",), kinds=frozenset({Kind.TLS_CERTIFICATE}))])
    server.catalog.learn({"a": Kind.GENERIC_SECRET})
    server.catalog.publish({"a": PENDING})
    client = await open_stream(server, names=["a"])

    assert ["a"] == (await client.receive()).removed_resources
    await client.leave()


async def test_a_chain_whose_key_its_target_keeps_is_absent_on_a_stream_and_said_once(server):
    """Envoy would refuse it: without a private key it is no certificate to serve."""
    server.publish("a", 1, PAIR)
    server.catalog.publish({"a": replace(server.catalog.look("a"), keyless=True)})
    with capture_logs() as logs:
        client = await open_stream(server, names=["a"])
        absent = await client.receive()
        await client.send(node="", nonce=absent.nonce)
        server.publish("a", 2, PAIR)
        granted = await client.receive()
        await client.leave()

    assert absent.removed_resources == ["a"]
    assert granted.resources[0].name == "a"
    assert ["a"] == [line["secret"] for line in logs if line["event"] == "secret.keyless"]


async def test_a_chain_with_the_path_of_its_key_goes_out(server):
    """Its Envoy finds the key there; so it is no chain alone."""
    server.publish("a", 1, PAIR)
    server.catalog.publish({"a": replace(server.catalog.look("a"), keyless=True, by_path=True)})
    client = await open_stream(server, names=["a"])
    sent = await client.receive()
    await client.leave()

    assert "a" == sent.resources[0].name


async def test_a_name_that_the_peer_may_not_see_is_logged_once_with_its_identity(server):
    """Nothing else tells an operator of a grant that was forgotten: to the proxy the name is just absent."""
    with capture_logs() as logs:
        client = await open_stream(server, names=["others/key"])
        await client.receive()
        server.server.recheck()
        server.publish("a", 1, PAIR)
        await client.send(names=["a"])
        await client.receive()
        await client.leave()

    denied = [line for line in logs if line["event"] == "secret.denied"]
    assert [(EDGE, "n", "others/key")] == [
        (line["identity"], line["node"], line["secret"]) for line in denied
    ]
    assert ["warning"] == [line["log_level"] for line in denied]


async def test_a_name_that_the_peer_may_not_see_is_never_loaded_for_it(server):
    loaded = []

    def load(name):
        loaded.append(name)
        server.publish(name, 1, PAIR)

    server.catalog.on_want = load
    client = await open_stream(server, names=["others/key", "a"])
    forbidden, granted = [await client.receive() for _ in range(2)]

    assert forbidden.removed_resources == ["others/key"]
    assert granted.resources[0].name == "a"
    assert loaded == ["a"]
    await client.leave()


async def test_a_lost_right_takes_the_secret_away(server):
    server.publish("a", 1, PAIR)
    client = await open_stream(server, names=["a"])
    response = await client.receive()
    await client.send(nonce=response.nonce)
    await server.witness.until("accepted", "n", "a", 1)
    server.grants = Grants([])
    server.server.recheck()

    assert (await client.receive()).removed_resources == ["a"]
    assert server.witness.facts[-1] == ("denied", "n", "a")
    await client.leave()


async def test_a_change_after_a_lost_right_is_not_sent(server):
    server.publish("a", 1, PAIR)
    client = await open_stream(server, names=["a"])
    response = await client.receive()
    await client.send(nonce=response.nonce)
    await server.witness.until("accepted", "n", "a", 1)
    server.grants = Grants([])
    server.publish("a", 2, authority().issue(dns=["a.test"]))

    assert (await client.receive()).removed_resources == ["a"]
    await client.leave()


async def test_the_node_id_gives_no_rights(server):
    server.grants = Grants([])
    server.publish("a", 1, PAIR)
    client = await open_stream(server, node=EDGE, names=["a"])

    assert (await client.receive()).removed_resources == ["a"]
    await client.leave()


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        (DELTA_SECRETS, {"node": ""}, "node.id is required"),
        (DELTA_SECRETS, {"node": "n" * 513}, "node.id: at most 512 printable bytes"),
        (STATE_OF_THE_WORLD, {"node": "edge\x00"}, "node.id: at most 512 printable bytes"),
        (STATE_OF_THE_WORLD, {"type_url": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}, "type_url"),
        (DELTA_ADS, {"type_url": ""}, "type_url"),
    ],
)
async def test_a_request_that_breaks_the_protocol_ends_its_stream(server, method, request_, message):
    client = await open_stream(server, method, names=["a"], **request_)
    code, details = await client.status()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details


async def test_a_node_that_changes_ends_the_stream(server):
    client = await open_stream(server, names=["a"])
    await client.send(node="other")

    assert await client.status() == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "node.id changed within a stream",
    )


async def test_bytes_that_are_no_message_end_the_stream(server):
    client = Client(server.channel(), DELTA_SECRETS)
    await client.send_bytes(b"\xff\xff")

    assert (await client.status())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_empty_type_on_sds_means_secret(server):
    server.publish("a", 1, PAIR)
    client = await open_stream(server, type_url="", names=["a"])

    assert (await client.receive()).resources[0].name == "a"
    await client.leave()


async def test_other_types_on_ads_get_silence_and_the_stream_goes_on(server):
    """An empty answer about clusters or listeners would delete them all."""
    server.publish("a", 1, PAIR)
    client = await open_stream(
        server, DELTA_ADS, type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"
    )
    await client.send(node="", names=["a"])

    assert (await client.receive()).resources[0].name == "a"
    await client.leave()


async def test_the_end_of_a_stream_leaves_nothing_behind(server):
    client = await open_stream(server, names=["a"])
    await server.witness.until("subscribed", "n", "a")
    await client.leave()
    await server.witness.until("disconnected", "n", "a")

    assert server.catalog._watchers == {}
    assert server.server._sessions == set()


async def test_one_node_connected_twice_is_served_twice(server):
    server.publish("a", 1, PAIR)
    clients = [await open_stream(server, names=["a"]) for _ in range(2)]

    assert ["a", "a"] == [(await client.receive()).resources[0].name for client in clients]
    for client in clients:
        await client.leave()


async def test_a_stream_ends_with_the_clients_certificate(server):
    soon = datetime.now(UTC) + timedelta(seconds=2)
    pair = server.clients_ca.issue(uris=[EDGE], not_after=soon)
    client = Client(server.channel(pair), DELTA_SECRETS)
    await client.send(names=["a"])

    assert await client.status() == (
        grpc.StatusCode.UNAUTHENTICATED,
        "the client certificate has expired",
    )


async def test_a_client_that_neither_accepts_nor_refuses_is_cut(tmp_path):
    clock = TurnedClock()
    async with deployed(tmp_path, clock=clock) as server:
        server.publish("a", 1, PAIR)
        client = await open_stream(server, names=["a"])
        await client.receive()
        clock.turn(timedelta(seconds=CLOSE_UNANSWERED_S))
        server.publish("a", 2, PAIR)

        assert await client.status() == (grpc.StatusCode.UNAVAILABLE, "no ACK or NACK within 120 s")


async def test_a_client_that_says_nothing_is_told_of_first(tmp_path):
    clock = TurnedClock()
    async with deployed(tmp_path, clock=clock) as server:
        server.publish("a", 1, PAIR)
        client = await open_stream(server, names=["a"])
        await client.receive()
        with capture_logs() as logs:
            clock.turn(timedelta(seconds=WARN_UNANSWERED_S))
            for generation in (2, 3):
                server.publish("a", generation, authority().issue(dns=["a.test"]))
                await asyncio.sleep(0)
            await client.send(node="", names=["b"])
            await server.witness.until("subscribed", "n", "b")
        await client.leave()

        assert [("n", 30)] == [
            (line["node"], line["unanswered_s"]) for line in logs if line["event"] == "answer.overdue"
        ]


async def test_who_is_cancelled_is_cancelled_and_leaves_nothing_behind(server):
    """As gRPC does with the handlers of clients that vanish: swallowed, they would count for ever."""
    asked = asyncio.Queue()

    async def requests():
        while True:
            yield await asked.get()

    caller = Caller(Identity(EDGE), None, lambda: True)
    service = server.server._service
    running = session.Session(service, None, caller=caller, delta=True, aggregated=False)
    before = asyncio.all_tasks()
    task = asyncio.create_task(running.run(requests()))
    request = pb.DeltaDiscoveryRequest(node=Node(id="n"), resource_names_subscribe=["a"])
    asked.put_nowait(request.SerializeToString())
    await server.witness.until("subscribed", "n", "a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    running.close()

    assert before == asyncio.all_tasks()
    assert {} == server.catalog._watchers


async def test_two_tenants_share_the_cache_and_not_the_rights(server):
    other = "spiffe://td.test/other"
    server.grants = Grants([Grant(EDGE, ("a",)), Grant(other, ("b",))])
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    clients = {
        EDGE: await open_stream(server, node="n", names=["a", "b"]),
        other: Client(server.channel(server.clients_ca.issue(uris=[other])), DELTA_SECRETS),
    }
    await clients[other].send(node="n", names=["a", "b"])
    seen = {}
    for identity, client in clients.items():
        responses = [await client.receive(), await client.receive()]
        seen[identity] = (
            [one.name for response in responses for one in response.resources],
            [name for response in responses for name in response.removed_resources],
        )
        await client.leave()

    assert {EDGE: (["a"], ["b"]), other: (["b"], ["a"])} == seen


async def test_a_client_that_does_not_read_is_cut_and_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "WRITE_DEADLINE_S", 0.2)
    names = [f"a{number}" for number in range(100)]
    async with deployed(tmp_path, names=names) as server:
        server.catalog.publish({name: Resource(name, "v1", 1, b"x" * 100_000) for name in names})
        client = await open_stream(server, names=names)
        await server.witness.until("disconnected", "n", names[-1])

        assert len([fact for fact in server.witness.facts if fact[0] == "sent"]) < len(names)
        assert server.server._sessions == set()
        await client.leave()


async def connected(server, tmp_path):
    """A connection that has said nothing but that it speaks HTTP/2."""
    certificate, key = server.clients_ca.issue(uris=[EDGE]).write(tmp_path, "client")
    context = ssl.create_default_context(cadata=server.servers_ca.pem.decode())
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
    empty_settings = b"\0\0\0\x04\0\0\0\0\0"
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
    return reader, writer


async def test_a_client_far_away_has_time_to_open_its_stream(server, tmp_path):
    """One that waits for our SETTINGS opens its stream a round trip after the handshake."""
    reader, writer = await connected(server, tmp_path)

    async def frame():
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        return head[3]

    async with asyncio.timeout(TIMEOUT_S):
        while await frame() != SETTINGS:
            pass
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):  # as long as round trips get; an end would be an IncompleteReadError
            while True:
                assert GOAWAY != await frame()
    writer.close()


async def test_a_connection_may_have_256_streams(server, tmp_path):
    """Envoy opens another connection for more, and none of them starves the others (RFC 9113, 6.5.2)."""
    reader, writer = await connected(server, tmp_path)
    async with asyncio.timeout(TIMEOUT_S):
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
    writer.close()
    settings = {
        int.from_bytes(payload[at : at + 2]): int.from_bytes(payload[at + 2 : at + 6])
        for at in range(0, len(payload), 6)
    }

    assert SETTINGS == head[3]
    assert 256 == settings[MAX_CONCURRENT_STREAMS]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.server.max_pending_requests", 100_000),
        ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.max_receive_message_length", 2 * 1024 * 1024),
    ],
)
def test_what_is_set_for_every_connection(option, value):
    """Those that take minutes, or thousands of clients, to be seen at work."""
    assert value == dict(OPTIONS)[option]


async def test_other_types_on_ads_are_told_of_once_each(server):
    types = [
        f"type.googleapis.com/envoy.config.{kind}" for kind in ("cluster.v3.Cluster", "listener.v3.Listener")
    ]
    with capture_logs() as logs:
        client = await open_stream(server, DELTA_ADS, type_url=types[0])
        for type_url in [*types, *types]:
            await client.send(node="", type_url=type_url)
        await client.send(node="", names=["a"])
        await server.witness.until("subscribed", "n", "a")
        await client.leave()

    assert types == [line["type_url"] for line in logs if line["event"] == "type.ignored"]


async def test_stopping_ends_the_streams_so_that_clients_go_elsewhere(server):
    client = await open_stream(server, names=["a"])
    await server.witness.until("subscribed", "n", "a")
    await server.stop(grace_s=2.0)

    assert (await client.status())[0] is grpc.StatusCode.UNAVAILABLE
    await server.witness.until("disconnected", "n", "a")


async def test_the_ends_of_streams_are_spread_over_half_of_the_grace(server):
    """So that a fleet does not come to the next replica in one moment."""
    clients = [await open_stream(server, node=f"n{number}", names=["a"]) for number in range(20)]
    for number in range(20):
        await server.witness.until("subscribed", f"n{number}", "a")
    ended = []

    async def ends(client):
        await client.status()
        ended.append(asyncio.get_running_loop().time())

    ends = [asyncio.create_task(ends(client)) for client in clients]
    await server.stop(grace_s=2.0)
    await asyncio.gather(*ends)

    assert 0.3 < max(ended) - min(ended) < 1.5


async def test_a_port_in_use_is_named(server):
    with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{server.port}"):
        await server.start()


async def test_the_servers_certificate_is_renewed_in_place(server):
    client = await open_stream(server, names=["a"])
    await server.witness.until("subscribed", "n", "a")
    await client.leave()
    server.servers_ca = authority("New servers")
    server.servers_ca.issue(dns=["localhost"]).write(server.directory, "server")
    client = await open_stream(server, node="m", names=["a"])

    await server.witness.until("subscribed", "m", "a")
    await client.leave()


async def test_a_mesh_whose_chains_have_an_intermediate_gets_what_its_identity_may_see(server):
    """As Istio's CA issues: the workload sends leaf and intermediate, we trust the root."""
    mesh = server.clients_ca.intermediate("istiod")
    workload = "spiffe://cluster.local/ns/web/sa/edge"
    server.grants = Grants([Grant(workload, ("a",))])
    server.publish("a", 1, PAIR)
    client = Client(server.channel(mesh.issue(uris=[workload])), DELTA_SECRETS)
    await client.send(names=["a"])
    (resource,) = (await client.receive()).resources

    assert "a" == resource.name


async def test_a_ca_that_we_trust_may_not_name_our_proxies(server):
    client = Client(
        server.channel(server.clients_ca.issue(uris=["spiffe://certvoy/proxy/edge-1"])), DELTA_SECRETS
    )
    code, details = await client.status()

    assert grpc.StatusCode.UNAUTHENTICATED == code
    assert "not of the control plane's own CA" in details


async def test_who_need_not_call_itself_anything_counts_as_its_identity_and_stays_that(server):
    server.require_node = False
    await server.stop()
    await server.start()
    server.publish("a", 1, PAIR)
    client = await open_stream(server, node="", names=["a"])
    response = await client.receive()
    await client.send(node="", nonce=response.nonce)
    await server.witness.until("accepted", EDGE, "a", 1)
    await client.send(node="somebody-else", names=["b"])

    assert "a" == response.resources[0].name
    assert (grpc.StatusCode.INVALID_ARGUMENT, "node.id changed within a stream") == await client.status()


async def test_each_request_for_another_type_is_counted_and_gets_silence(server):
    server.publish("a", 1, PAIR)
    clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    client = Client(server.channel(), f"/{ADS}/DeltaAggregatedResources")
    for _ in range(2):
        await client.send(type_url=clusters, names=["x"])
    await client.send(names=["a"])

    assert "a" == (await client.receive()).resources[0].name
    assert [clusters] * 2 == server.ignored
    await client.leave()


async def test_what_may_not_be_seen_takes_as_long_as_what_is_not_there(server):
    """The time of an answer does not tell whether another tenant has a name.

    The same class, not the same microsecond. Each is asked for in turn, so that what else this machine does
    is in all three alike.
    """
    names = [f"{number}" for number in range(120)]
    asked = {"theirs": [], "nobody's": [], "ours": []}
    server.grants = Grants([Grant(EDGE, ("ours/*",))])
    for name in names:
        server.publish(f"theirs/{name}", 1, PAIR)
        server.catalog.publish({f"ours/{name}": ABSENT})
    client = await open_stream(server, names=["ours/first"], node="n")
    for name in names:
        for whose, took in asked.items():
            started = time.perf_counter()
            await client.send(node="", names=[f"{whose}/{name}"])
            answer = await client.receive()
            took.append(time.perf_counter() - started)
            assert [f"{whose}/{name}"] == answer.removed_resources
            assert [] == [*answer.resources]
    medians = sorted(statistics.median(took) for took in asked.values())
    await client.leave()

    assert medians[-1] < 3 * medians[0] + 0.002, {whose: statistics.median(t) for whose, t in asked.items()}
