"""HTTP/1.1 to one origin, against servers that say what they like, byte by byte."""

import asyncio
import errno
import gc
import socket
import ssl
import warnings
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
from yarl import URL

from acme_engine import http01, http1
from acme_engine.http1 import MAX_BODY, MAX_CONNECTIONS, MAX_HEAD, Connections, TooLong, lines
from acme_engine.proxy import Proxy
from tests.support import pki
from tests.support.tunnel import tunnel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
_407 = b"HTTP/1.1 407 Proxy Authentication Required\r\n"


class Server:
    """Answers each request of each connection with what is next; the last one repeats."""

    def __init__(self, *answers):
        self.answers = [*answers]
        self.requests = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader, writer):
        self.connections += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                for part in answer if isinstance(answer, list) else [answer]:
                    if part is None:
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(*answers, context=None, proxy=None, tls=None, name="127.0.0.1"):
    server = Server(*answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    scheme = "https" if context else "http"
    connections = Connections(URL(f"{scheme}://{name}:{port}"), tls=tls, proxy=proxy)
    try:
        yield connections, server
    finally:
        await connections.close()
        listening.close()


async def ask(connections, method="GET", body=None, *, within_s=30.0):
    return await connections.exchange(method, "/a?b=c", lines({"X": "y"}), body, within_s=within_s)


async def settled():
    """Let both ends take what is on its way to them."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_request_is_what_was_asked_for():
    async with serving(OK) as (connections, server):
        answer = await ask(connections, "POST", b"body")

    host = connections._origin.host_port_subcomponent
    expected = f"POST /a?b=c HTTP/1.1\r\nHost: {host}\r\nX: y\r\nContent-Length: 4\r\n\r\nbody"
    assert [expected.encode()] == server.requests
    assert (200, "OK", b"hi") == (answer.status, answer.reason, bytes(answer.body))
    assert "2" == answer.headers["content-length"]


async def test_a_connection_is_used_again_and_by_one_exchange_at_a_time():
    async with serving(OK) as (connections, server):
        for _ in range(3):
            await ask(connections)
        one = server.connections
        await asyncio.gather(*(ask(connections) for _ in range(4)))

    assert 1 == one
    assert 4 == server.connections


async def test_so_many_connections_are_open_at_once_and_the_others_wait():
    async with serving(OK) as (connections, server):
        await asyncio.gather(*(ask(connections) for _ in range(5 * MAX_CONNECTIONS)))

        assert MAX_CONNECTIONS == server.connections


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nReplay-Nonce: n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nReplay-Nonce: n\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nReplay-Nonce: n\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_what_answers_a_head_has_no_body_and_the_connection_is_kept(answer):
    """Go's servers say no length to a HEAD."""
    async with serving(answer) as (connections, server):
        nonces = [(await ask(connections, "HEAD")).headers["Replay-Nonce"] for _ in range(2)]

    assert ["n", "n"] == nonces
    assert 1 == server.connections


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"]
)
async def test_a_connection_that_ends_with_the_answer_to_a_head_is_not_kept(answer):
    async with serving(answer) as (connections, server):
        await ask(connections, "HEAD")
        await ask(connections, "HEAD")

    assert 2 == server.connections


@pytest.mark.parametrize(
    ("answer", "body", "kept"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n", b"hi", True),
        ([b"HTTP/1.1 2", b"00 O", b"K\r\nContent-Len", b"gth: 2\r\n\r", b"\nh", b"i"], b"hi", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: early\r\n\r\n" + OK, b"hi", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"h", b"i", None], b"hi", False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", None], b"hi", False),
        (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"hi", False),
        (OK + b"garbage", b"hi", False),
    ],
)
async def test_an_answer_ends_where_it_says_and_only_a_clean_connection_is_kept(answer, body, kept):
    """A byte more than the answer would be the beginning of the next request's."""
    async with serving(answer, OK) as (connections, server):
        first = await ask(connections)
        await settled()  # what else it says, and its end, may come later
        second = await ask(connections)

    assert body == bytes(first.body)
    assert "X" not in first.headers
    assert "X-T" not in first.headers
    assert b"hi" == bytes(second.body)
    assert (1 if kept else 2) == server.connections


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        [None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", None],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", None],
        [b"HTTP/1.1 200 OK\r\nX: y\r\n", None],
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
    ],
)
async def test_what_is_no_whole_answer_is_an_error_of_the_connection(answer):
    async with serving(answer) as (connections, server):
        with pytest.raises(OSError):
            await ask(connections)
        await settled()

        assert 0 == server.open


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 1000 + b"\r\n"] * (2 * MAX_HEAD // 1000)],
        [b"HTTP/1.1 200 OK\r\nX: ", *[b"y" * 1000] * (2 * MAX_HEAD // 1000)],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", *[b"x" * 4096] * (MAX_BODY // 4096 + 9)],
        [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 4096] * (MAX_BODY // 4096 + 9)],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 200] * 500,
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            *[b"1;" + b"e" * 4000 + b"\r\nx\r\n"] * (MAX_BODY // 1000),
        ],
    ],
    ids=["headers", "a header", "body", "endless body", "interim answers", "chunk extensions"],
)
async def test_an_answer_without_an_end_is_cut_off(answer):
    async with serving(answer) as (connections, _server):
        with pytest.raises(TooLong):
            await ask(connections)


async def test_a_body_of_the_greatest_length_is_taken():
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MAX_BODY + b"x" * MAX_BODY
    async with serving(whole) as (connections, _server):
        assert MAX_BODY == len((await ask(connections)).body)


async def test_who_gives_up_waiting_leaves_no_answer_to_the_next():
    async with serving([b"HTTP/1.1 200 OK\r\n"], OK) as (connections, server):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(connections)
        answer = await ask(connections)

    assert b"hi" == bytes(answer.body)
    assert 2 == server.connections


async def test_an_answer_that_is_not_whole_in_time_is_given_up_and_its_connection_with_it():
    async with serving([b"HTTP/1.1 200 OK\r\n"], OK) as (connections, server):
        with pytest.raises(TimeoutError):
            await ask(connections, within_s=0.05)
        answer = await ask(connections)

    assert b"hi" == bytes(answer.body)
    assert 2 == server.connections


async def test_to_wait_for_others_takes_nothing_of_the_time_for_an_answer(monkeypatch):
    monkeypatch.setattr(http1, "MAX_CONNECTIONS", 1)
    async with serving([b"HTTP/1.1 200 OK\r\n"], OK) as (connections, _server):
        first, second = await asyncio.gather(
            ask(connections, within_s=1.0), ask(connections, within_s=0.9), return_exceptions=True
        )

    assert isinstance(first, TimeoutError)
    assert b"hi" == bytes(second.body)


async def test_a_connection_that_nobody_needs_is_closed(monkeypatch):
    monkeypatch.setattr(http1, "KEEP_S", 0.05)
    async with serving(OK) as (connections, server):
        await asyncio.gather(ask(connections), ask(connections))
        was = server.open
        async with asyncio.timeout(5):
            while server.open:
                await asyncio.sleep(0.01)

    assert 2 == was


async def test_one_that_the_server_closed_meanwhile_is_not_used():
    async with serving([OK, None]) as (connections, server):
        for _ in range(3):
            await ask(connections)
            async with asyncio.timeout(5):
                while connections._idle:
                    await asyncio.sleep(0.001)

    assert 3 == server.connections


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nhal"])
async def test_closing_ends_who_waits(begun):
    async with serving([begun]) as (connections, server):
        waiting = asyncio.ensure_future(ask(connections))
        while not server.requests:
            await asyncio.sleep(0.001)
        await settled()
        await connections.close()
        with pytest.raises(ConnectionError):
            await waiting


async def test_nobody_there_and_nobody_who_answers(monkeypatch):
    monkeypatch.setattr(http1, "CONNECT_TIMEOUT_S", 0.05)

    async def never(*_arguments, **_named):
        await asyncio.sleep(60)

    async with serving(OK) as (connections, _server):
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
        with pytest.raises(ConnectionError, match="no connection within"):
            await ask(connections)


@pytest.fixture
def site(tmp_path):
    """TLS of a server, and of who trusts it."""
    authority = pki.authority("Ours")
    chain, key = authority.issue(["ca.test"], ips=["127.0.0.1"]).write(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context, lambda: ssl.create_default_context(cafile=authority.write(tmp_path / "ca.pem"))


async def test_tls_is_verified(site):
    context, tls = site
    async with serving(OK, context=context, tls=tls) as (connections, _server):
        trusted = await ask(connections)
    with pytest.raises(ssl.SSLCertVerificationError):
        async with serving(OK, context=context, tls=ssl.create_default_context) as (connections, server):
            await ask(connections)

    assert 200 == trusted.status
    assert [] == server.requests


async def test_a_proxy_connects_us_and_cannot_read_along(site):
    context, tls = site
    async with tunnel() as between:
        proxy = Proxy(URL(between.url), {"Proxy-Authorization": "Basic secret"})
        async with serving(OK, context=context, tls=tls, proxy=proxy) as (connections, server):
            for _ in range(2):
                await ask(connections, "POST", b"body")

    assert 1 == len(between.heads), "it stays open"
    assert "Proxy-Authorization: Basic secret" in between.heads[0]
    assert all(b"Basic" not in request for request in server.requests)


@pytest.mark.parametrize("answer", [_407 + b"Content-Length: 0\r\n\r\n", _407 + b"\r\n<html>"])
async def test_a_proxy_that_refuses_is_quoted(site, answer):
    _, tls = site
    refuses = Server(answer)
    listening = await asyncio.start_server(refuses.serve, "127.0.0.1", 0)
    proxy = Proxy(URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"), {})
    connections = Connections(URL("https://ca.test"), tls=tls, proxy=proxy)
    with pytest.raises(ConnectionError, match="refused: 407 Proxy Authentication Required"):
        await ask(connections)
    await connections.close()
    listening.close()

    assert refuses.requests[0].startswith(b"CONNECT ca.test:443 HTTP/1.1\r\nHost: ca.test:443\r\n")


async def test_in_the_clear_a_proxy_relays():
    relay = Server(OK)
    listening = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    proxy = Proxy(
        URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"), {"Proxy-Authorization": "x"}
    )
    connections = Connections(URL("http://127.0.0.9:81"), proxy=proxy)
    await ask(connections)
    await connections.close()
    listening.close()

    assert relay.requests[0].startswith(b"GET http://127.0.0.9:81/a?b=c HTTP/1.1\r\nHost: 127.0.0.9:81\r\n")
    assert b"Proxy-Authorization: x\r\n" in relay.requests[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Connected\r\n\r\n",
    ],
)
async def test_a_tunnel_is_open_however_the_proxy_says_so(site, answer):
    """Tinyproxy says HTTP/1.0. "Any 2xx" opens it, and a length is to be ignored (RFC 9110 section 9.3.6)."""
    context, tls = site
    async with tunnel(answer) as between:
        proxy = Proxy(URL(between.url), {})
        async with serving(OK, context=context, tls=tls, proxy=proxy) as (connections, server):
            answers = [await ask(connections) for _ in range(2)]

    assert [b"hi", b"hi"] == [bytes(answer.body) for answer in answers]
    assert 1 == server.connections


@pytest.mark.parametrize("more", [OK, b"x", b"\x16\x03\x03\x00\x01\x00"])
async def test_what_a_proxy_says_after_its_answer_is_of_nobody_else(site, more):
    """We speak first in TLS: what comes before that was not said by the CA."""
    context, tls = site
    async with tunnel(b"HTTP/1.1 200 OK\r\n\r\n" + more) as between:
        proxy = Proxy(URL(between.url), {})
        async with serving(OK, context=context, tls=tls, proxy=proxy) as (connections, server):
            async with asyncio.timeout(2):
                with pytest.raises(ConnectionError, match="more than its answer"):
                    await ask(connections)
            left = connections._all

    assert [] == server.requests
    assert not left


@asynccontextmanager
async def mute_tunnel(tls):
    """Connections through a proxy whose tunnels lead to a server that never says a word."""
    mute = Server([])
    listening = await asyncio.start_server(mute.serve, "127.0.0.1", 0)
    async with tunnel() as between:
        port = listening.sockets[0].getsockname()[1]
        connections = Connections(
            URL(f"https://127.0.0.1:{port}"), tls=tls, proxy=Proxy(URL(between.url), {})
        )
        yield connections, mute
    listening.close()


async def in_handshake(mute):
    async with asyncio.timeout(5):
        while not mute.connections:
            await asyncio.sleep(0.001)
    await settled()


async def test_who_gives_up_within_the_handshake_leaves_nothing(site):
    async with mute_tunnel(site[1]) as (connections, mute):
        asking = asyncio.ensure_future(ask(connections))
        await in_handshake(mute)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(2):
            await connections.close()

    assert not connections._all


async def test_closing_ends_a_handshake(site):
    async with mute_tunnel(site[1]) as (connections, mute):
        asking = asyncio.ensure_future(ask(connections))
        await in_handshake(mute)
        async with asyncio.timeout(2):
            await connections.close()
            with pytest.raises(ConnectionError):
                await asking


async def test_what_is_connected_after_the_end_is_cut(monkeypatch):
    async with serving(OK) as (connections, server):
        loop = asyncio.get_running_loop()
        connect, go_on = loop.create_connection, asyncio.Event()

        async def late(*arguments, **named):
            made = await connect(*arguments, **named)
            await go_on.wait()
            return made

        monkeypatch.setattr(loop, "create_connection", late)
        asking = asyncio.ensure_future(ask(connections))
        await settled()
        await connections.close()
        go_on.set()
        with pytest.raises(ConnectionError):
            await asking
        await settled()

        assert [] == server.requests
        assert 0 == server.open


async def test_who_waits_for_a_turn_at_the_end_connects_to_nobody():
    async with serving([b"HTTP/1.1 200 OK\r\n"]) as (connections, server):
        asking = [asyncio.ensure_future(ask(connections)) for _ in range(MAX_CONNECTIONS + 3)]
        while server.connections < MAX_CONNECTIONS:
            await asyncio.sleep(0.001)
        await settled()
        await connections.close()
        async with asyncio.timeout(2):
            ends = await asyncio.gather(*asking, return_exceptions=True)
        await settled()

        assert all(isinstance(end, ConnectionError) for end in ends)
        assert MAX_CONNECTIONS == server.connections


@pytest.mark.parametrize("ending", [lambda c: c.data_received(b"HTTP/1.1 408 "), lambda c: c.eof_received()])
async def test_one_whose_end_has_begun_is_not_used(ending):
    """Its transport takes a turn of the loop and more to end, and with TLS does not say so before."""
    async with serving(OK) as (connections, server):
        await ask(connections)
        ending(connections._idle[0])
        answer = await ask(connections)

    assert b"hi" == bytes(answer.body)
    assert 2 == server.connections


async def test_a_server_that_ends_its_tls_while_we_ask_again(site):
    context, tls = site
    async with serving([OK, None], context=context, tls=tls) as (connections, server):
        for _ in range(20):
            await ask(connections)
            while connections._idle and connections._idle[0].keeps:
                await asyncio.sleep(0)

    assert 20 == server.connections


@pytest.mark.parametrize(
    "head", [b"content-length: 9", b"transfer-encoding: chunked", b"transfer-encoding: gzip"]
)
async def test_a_length_in_small_letters_is_one_too(head):
    async with serving([b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n", None]) as (connections, _server):
        with pytest.raises(ConnectionError):
            await ask(connections)


async def addresses(*known):
    return [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host, port in known
    ]


async def test_the_next_address_is_tried_beside_one_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(http1, "_addresses", lambda url: addresses(("::1", 1), ("127.0.0.1", url.port)))
    async with serving(OK, name="localhost") as (connections, _server):
        answer = await ask(connections)

    assert 200 == answer.status


@pytest.mark.parametrize("known", [["127.0.0.1"], ["127.0.0.1", "127.0.0.1"]])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_who_gives_up_while_it_connects_leaves_no_socket(monkeypatch, known):
    """At whatever turn of the loop it is: a socket that nobody has is open until memory is swept."""
    monkeypatch.setattr(http1, "_addresses", lambda url: addresses(*((host, url.port) for host in known)))
    async with serving(OK) as (connections, _server):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for turns in range(12):
                asking = asyncio.ensure_future(ask(connections))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
            del asking
            await settled()
            gc.collect()

    assert [] == [str(warning.message) for warning in told]


async def test_a_host_with_a_dot_at_its_end_is_verified_without_it(site, monkeypatch):
    """It is a name of DNS, and none of TLS (RFC 6066 section 3)."""
    context, tls = site
    named = []
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def connects(protocol, **how):
        named.append(how["server_hostname"])
        return await connect(protocol, **how)

    monkeypatch.setattr(loop, "create_connection", connects)
    monkeypatch.setattr(http1, "_addresses", lambda url: addresses(("127.0.0.1", url.port)))
    async with serving(OK, context=context, tls=tls, name="ca.test.") as (connections, _server):
        await ask(connections)

    assert ["ca.test"] == named


@pytest.mark.parametrize(("method", "asked"), [("GET", 2), ("HEAD", 2), ("POST", 1)])
async def test_what_was_lost_with_a_kept_connection_is_asked_for_again_if_that_does_no_harm(method, asked):
    """The server had closed it already. Of a POST nobody knows (RFC 9110 section 9.2.2)."""
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [None]) as (connections, server):
        await ask(connections)
        with pytest.raises(ConnectionError):
            await ask(connections, method, b"" if method == "POST" else None)

    assert 1 + asked == len(server.requests)
    assert asked == server.connections


async def test_what_was_lost_with_a_kept_connection_is_answered_by_a_new_one():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with serving(head, [None], head) as (connections, server):
        answers = [await ask(connections, "HEAD") for _ in range(2)]

    assert [200, 200] == [answer.status for answer in answers]
    assert 2 == server.connections


@pytest.mark.parametrize("end", ["close_notify", "cut"])
@pytest.mark.parametrize("between", [False, True])
async def test_what_says_no_length_is_whole_only_where_tls_says_so(site, end, between):
    """An "incomplete close" may be anybody's between (RFC 9112 section 9.8), and a chain half a chain."""
    context, tls = site

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await writer.drain()
        if end == "cut":
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    origin = URL(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with tunnel() as proxy:
        connections = Connections(origin, tls=tls, proxy=Proxy(URL(proxy.url), {}) if between else None)
        told = (await asyncio.gather(ask(connections), return_exceptions=True))[0]
        await connections.close()
    listening.close()

    if end == "cut":
        assert isinstance(told, ConnectionError)
    else:
        assert b"hi" == bytes(told.body)


async def test_a_body_that_is_too_long_by_its_last_byte_is_cut_off(site):
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1)
    async with serving(whole) as (connections, _server):
        with pytest.raises(TooLong):
            await ask(connections)


async def test_a_connect_that_the_system_gives_up_is_told_in_its_words(monkeypatch):
    """It is a `TimeoutError` as well, and none of ours: "no whole answer" would name the wrong cause."""

    async def gives_up(*_arguments, **_named):
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(http1, "start_connection", gives_up)
    async with serving(OK) as (connections, _server):
        with pytest.raises(ConnectionError, match="Connection timed out"):
            await ask(connections)


def responder_connection():
    return http01._Connection(lambda _token: None, {}, 60.0, lambda _answer: None)


@pytest.mark.parametrize("protocol", [lambda: http1._Connection(lambda _ended: None), responder_connection])
async def test_the_transports_of_every_loop_will_do(protocol):
    """Uvloop's are none of asyncio's classes."""
    transport = SimpleNamespace(aborted=0)
    transport.abort = lambda: setattr(transport, "aborted", 1)
    connection = protocol()
    connection.connection_made(transport)
    connection.abort()
    connection.connection_lost(None)

    assert 1 == transport.aborted
