"""Unix sockets: one for each identity, on which every method is served without TLS."""

import os
import socket
import stat

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

from sds_server.errors import OperatorError, Unavailable
from sds_server.identity import Grant, Grants, Trust
from sds_server.model import Identity
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.server import FETCH, SDS
from sds_server.xds.sockets import SdsSocket
from tests.support.pki import authority
from tests.xds.sds import EDGE, Deployment
from tests.xds.test_server import METHODS, Client

PAIR = authority().issue(dns=["a.test"])
OTHER = Identity("spiffe://td.test/other")


@pytest.fixture
async def server(tmp_path):
    deployment = Deployment(tmp_path)
    deployment.sockets = [
        SdsSocket(tmp_path / "run" / "edge.sock", Identity(EDGE)),
        SdsSocket(tmp_path / "run" / "other.sock", OTHER),
    ]
    yield deployment
    await deployment.stop()


def channel(server, index=0):
    return grpc.aio.insecure_channel(server.sockets[index].address)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("method", METHODS)
async def test_every_stream_is_served_and_its_ack_credited(server, method):
    await server.start()
    server.publish("a", 1, PAIR)
    client = Client(channel(server), method)
    await client.send(names=["a"])
    response = await client.receive()
    await client.send(node="", names=[] if "Delta" in method else ["a"], nonce=response.nonce)

    await server.witness.until("accepted", "n", "a", 1)
    await client.leave()


async def test_fetch_is_served(server):
    await server.start()
    server.publish("a", 1, PAIR)
    request = pb.DiscoveryRequest(node=Node(id="n"), resource_names=["a"]).SerializeToString()
    async with channel(server) as one:
        response = pb.DiscoveryResponse.FromString(
            await one.unary_unary(f"/{SDS}/{FETCH}")(request, timeout=10)
        )

    assert [TYPE_URL] == [resource.type_url for resource in response.resources]


async def test_the_identity_is_the_sockets(server):
    """One socket may see what the other may not, whatever the client calls itself."""
    await server.start()
    server.grants = Grants([Grant(EDGE, ("a",)), Grant(OTHER, ("b",))])
    server.publish("a", 1, PAIR)
    server.publish("b", 1, PAIR)
    sent = []
    for index in (0, 1):
        client = Client(channel(server, index), METHODS[1])
        await client.send(names=["a", "b"])
        responses = [await client.receive(), await client.receive()]
        sent.append([resource.name for response in responses for resource in response.resources])
        await client.leave()

    assert [["a"], ["b"]] == sent


async def test_who_is_denied_is_cut_at_once_and_kept_out(server):
    await server.start()
    server.publish("a", 1, PAIR)
    client = Client(channel(server), METHODS[1])
    await client.send(names=["a"])
    await client.receive()
    server.trust = Trust("certvoy", denied=[EDGE])
    server.server.recheck()

    assert (grpc.StatusCode.UNAUTHENTICATED, "the client is not admitted any more") == await client.status()
    again = Client(channel(server), METHODS[1])
    assert (grpc.StatusCode.UNAUTHENTICATED, f"{EDGE} is denied") == await again.status()


@pytest.mark.parametrize("umask", [0o022, 0o077])
async def test_the_socket_is_for_its_group_and_its_directory_is_made_for_it(server, umask):
    before = os.umask(umask)
    try:
        await server.start()
    finally:
        os.umask(before)
    path = server.sockets[0].path

    assert (0o750, 0o660) == (mode(path.parent), mode(path))


async def test_the_umask_is_what_it_was(server):
    before = os.umask(0o022)
    try:
        await server.start()
        assert 0o022 == os.umask(0o022)
    finally:
        os.umask(before)


async def test_stopping_takes_the_socket_away(server):
    await server.start()
    await server.stop()

    assert [] == [*server.sockets[0].path.parent.iterdir()]


async def test_the_socket_of_a_dead_process_is_replaced(server):
    path = server.sockets[0].path
    path.parent.mkdir(mode=0o750)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await server.start()
    server.publish("a", 1, PAIR)
    client = Client(channel(server), METHODS[1])
    await client.send(names=["a"])

    assert "a" == (await client.receive()).resources[0].name
    await client.leave()


async def test_a_socket_that_somebody_listens_on_is_named_and_left_alone(server, tmp_path):
    path = server.sockets[1].path
    path.parent.mkdir(mode=0o750)
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(Unavailable, match=rf"{path}: another process listens there"):
            await server.start()
        assert path.is_socket()
    assert not server.sockets[0].path.exists()


async def test_what_is_no_socket_is_left_alone(server):
    path = server.sockets[0].path
    path.parent.mkdir(mode=0o750)
    path.write_text("mine")

    with pytest.raises(OperatorError, match="is there, and no socket"):
        await server.start()
    assert "mine" == path.read_text()


@pytest.mark.parametrize("wrong", [0o755, 0o770, 0o751])
async def test_a_directory_that_is_open_to_others_is_refused(server, wrong):
    directory = server.sockets[0].path.parent
    directory.mkdir()
    directory.chmod(wrong)

    with pytest.raises(OperatorError, match=f"has mode {wrong:04o}") as refusal:
        await server.start()
    assert "chmod 0750 it" == refusal.value.next_step


async def test_a_path_that_is_too_long_or_cannot_be_is_explained(server, tmp_path):
    server.sockets = [SdsSocket(tmp_path / ("x" * 100) / "edge.sock", Identity(EDGE))]
    with pytest.raises(OperatorError, match="more than 107 bytes"):
        await server.start()

    (tmp_path / "file").write_text("")
    server.sockets = [SdsSocket(tmp_path / "file" / "edge.sock", Identity(EDGE))]
    with pytest.raises(OperatorError, match=r"(Not a directory|File exists)"):
        await server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_a_directory_of_somebody_else_is_refused(server):
    directory = server.sockets[0].path.parent
    directory.mkdir(mode=0o750)
    os.chown(directory, 12345, -1)

    with pytest.raises(OperatorError, match="belongs to uid 12345"):
        await server.start()
