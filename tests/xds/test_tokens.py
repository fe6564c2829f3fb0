"""Tokens in place of client certificates: over TLS only, for one identity, until they end or are revoked."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import aiohttp
import grpc
import pytest

from sds_server.identity import Bearer, Grant, Grants
from sds_server.xds import rest
from sds_server.xds.caller import BEARER_WANTED, BEARER_WORTHLESS, TLS_WANTED
from sds_server.xds.codec import TYPE_URL
from sds_server.xds.sockets import SdsSocket
from tests.support.pki import authority
from tests.xds.sds import EDGE, TIMEOUT_S, deployed
from tests.xds.test_server import DELTA_SECRETS, Client

OTHER = "spiffe://td.test/other"
PAIR = authority().issue(dns=["a.test"])
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path, tokens=True) as deployment:
        deployment.publish("a", 1, PAIR)
        hand_out(deployment, "good")
        yield deployment


def hand_out(server, text, *, identity=EDGE, lasts=timedelta(hours=1)):
    server.bearers[text] = Bearer(identity, datetime.now(UTC) + lasts, lambda: text in server.bearers)


class Shown(Client):
    """A stream of who shows these words as Authorization."""

    def __init__(self, channel, *words):
        super().__init__(channel, DELTA_SECRETS)
        shown = tuple(("authorization", word) for word in words)
        self._call = channel.stream_stream(DELTA_SECRETS)(metadata=shown)


def channel(server, *, port=None, certificate=False):
    pair = server.clients_ca.issue(uris=[EDGE])
    credentials = grpc.ssl_channel_credentials(
        server.servers_ca.pem,
        private_key=pair.key_pem if certificate else None,
        certificate_chain=pair.chain_pem if certificate else None,
    )
    return grpc.aio.secure_channel(f"localhost:{port or server.token_port}", credentials)


async def asked(server, *words, **how):
    """Ask for a and for what another may see; return the status, or the names that came and did not."""
    client = Shown(channel(server, **how), *words)
    try:
        await client.send(names=["a", "others/key"])
        answers = [await client.receive() for _ in range(2)]
    except (AssertionError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return await client.status()
    await client.leave()
    came = [one.name for answer in answers for one in answer.resources]
    return came, [name for answer in answers for name in answer.removed_resources]


async def test_a_tokens_bearer_sees_what_its_identity_is_granted_and_no_more(server):
    server.publish("others/key", 1, PAIR)

    assert (["a"], ["others/key"]) == await asked(server, "Bearer good")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], BEARER_WANTED),
        (["Basic Z29vZA=="], BEARER_WANTED),
        (["good"], BEARER_WANTED),
        (["Bearer bad"], BEARER_WORTHLESS),
        (["Bearer "], BEARER_WORTHLESS),
        (["Bearer good", "Bearer good"], BEARER_WANTED),
        (["Bearer over"], BEARER_WORTHLESS),
    ],
)
async def test_who_shows_no_good_token_is_told_how_to_get_one(server, words, why):
    hand_out(server, "over", lasts=timedelta(seconds=-1))

    assert (UNAUTHENTICATED, why) == await Shown(channel(server), *words).status()
    assert "certvoy token create" in why


async def test_where_certificates_are_demanded_a_token_opens_nothing(server):
    code, _ = await asked(server, "Bearer good", port=server.port)

    assert grpc.StatusCode.UNAVAILABLE == code  # TLS ends before a word is said


async def test_beside_a_certificate_a_token_makes_nobody_somebody_else(server):
    server.grants = Grants([Grant(EDGE, ("a",)), Grant(OTHER, ("others/key",))])
    server.publish("others/key", 1, PAIR)
    hand_out(server, "another's", identity=OTHER)

    assert (["a"], ["others/key"]) == await asked(
        server, "Bearer another's", port=server.port, certificate=True
    )


async def test_over_plain_tcp_there_is_no_way_in_for_a_token(server):
    client = Shown(grpc.aio.insecure_channel(f"localhost:{server.token_port}"), "Bearer good")
    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError, AssertionError)):
        await client.send(names=["a"])
        await client.receive()
    code, _ = await client.status()

    assert grpc.StatusCode.UNAVAILABLE == code
    assert [] == server.witness.facts


async def test_at_a_socket_the_identity_is_the_sockets_whatever_is_shown(tmp_path):
    async with deployed(tmp_path, tokens=True) as server:
        await server.stop()
        server.sockets = (SdsSocket(tmp_path / "run" / "edge.sock", EDGE),)
        server.grants = Grants([Grant(EDGE, ("a",)), Grant(OTHER, ("others/key",))])
        await server.start()
        server.publish("a", 1, PAIR)
        server.publish("others/key", 1, PAIR)
        hand_out(server, "another's", identity=OTHER)
        client = Shown(grpc.aio.insecure_channel(f"unix:{server.sockets[0].path}"), "Bearer another's")
        await client.send(names=["others/key", "a"])
        absent, came = [await client.receive() for _ in range(2)]
        await client.leave()

    assert ["others/key"] == [*absent.removed_resources]
    assert "a" == came.resources[0].name


async def test_a_revoked_token_ends_its_streams(server):
    client = Shown(channel(server), "Bearer good")
    await client.send(names=["a"])
    await client.receive()
    del server.bearers["good"]
    server.server.recheck()

    assert (UNAUTHENTICATED, "the client is not admitted any more") == await client.status()


async def test_a_token_that_ends_ends_its_streams(server):
    hand_out(server, "brief", lasts=timedelta(seconds=1))
    client = Shown(channel(server), "Bearer brief")
    await client.send(names=["a"])
    await client.receive()

    assert (UNAUTHENTICATED, "the token has expired") == await client.status()


async def polled(server, *words, certificate=None, newest=None):
    context = ssl.create_default_context(cadata=server.servers_ca.pem.decode())
    if certificate is not None:
        context.load_cert_chain(*certificate.write(server.directory, "poller"))
    if newest is not None:
        context.maximum_version = newest
    body = {"node": {"id": "n"}, "resource_names": ["a", "others/key"], "type_url": TYPE_URL}
    headers = [("Authorization", word) for word in words]
    url = f"https://localhost:{server.rest_port}{rest.PATH}"
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
        ) as http,
        http.post(url, json=body, headers=headers) as response,
    ):
        if response.status != 200:
            return response.status, await response.text()
        return 200, [one["name"] for one in (await response.json())["resources"]]


async def test_rest_takes_a_token_as_the_streams_do_and_a_certificate_as_ever(server):
    server.publish("others/key", 1, PAIR)
    edge = server.clients_ca.issue(uris=[EDGE])

    assert (200, ["a"]) == await polled(server, "Bearer good")
    assert (200, ["a"]) == await polled(server, certificate=edge)
    assert (401, BEARER_WANTED) == await polled(server)
    assert (401, BEARER_WORTHLESS) == await polled(server, "Bearer bad")
    assert (401, BEARER_WANTED) == await polled(server, "Bearer good", "Bearer good")


async def test_rest_speaks_no_older_tls_where_it_takes_tokens(server):
    with pytest.raises(aiohttp.ClientError):
        await polled(server, "Bearer good", newest=ssl.TLSVersion.TLSv1_2)


async def test_where_no_tokens_are_taken_there_is_no_port_for_them_and_rest_takes_none(tmp_path):
    async with deployed(tmp_path) as server:
        server.publish("a", 1, PAIR)
        hand_out(server, "good")

        assert server.server.token_port is None
        with pytest.raises(aiohttp.ClientError):
            await polled(server, "Bearer good")
    assert "certificate" in TLS_WANTED
