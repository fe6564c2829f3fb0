"""The responder on port 80: one path, one request, seconds, and nothing else (RFC 8555 section 8.3)."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from acme_engine import Http01Responder, TlsAlpn01Responder, errors, http01, lookup
from tests.support.acme import Tokens

TOKEN = "A-_b" * 10
KEY_AUTHORIZATION = f"{TOKEN}.thumbprint"
PATH = f"/.well-known/acme-challenge/{TOKEN}"


class Served:
    """A responder and the bytes that come back from it."""

    def __init__(self, responder, port, tokens):
        self.responder, self.port, self.tokens = responder, port, tokens

    async def send(self, *parts, close=False):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            if close:
                writer.write_eof()
            return await reader.read()
        except ConnectionResetError:
            return b"(reset)"
        finally:
            writer.close()

    async def get(self, target, *, method="GET", headers=("Host: x",), version="HTTP/1.1"):
        head = "\r\n".join([f"{method} {target} {version}", *headers])
        return await self.send(head.encode("latin-1") + b"\r\n\r\n")

    async def status(self, target, **more):
        return (await self.get(target, **more)).split(b" ")[1:2]


@asynccontextmanager
async def serving(tokens=None, **more):
    tokens = Tokens() if tokens is None else tokens
    tokens[TOKEN] = KEY_AUTHORIZATION
    responder = Http01Responder(tokens, host="127.0.0.1", port=0, **more)
    port = await responder.start()
    try:
        yield Served(responder, port, tokens)
    finally:
        await responder.stop()


@pytest.fixture
async def served():
    async with serving() as it:
        yield it


async def test_a_token_is_answered_with_its_key_authorization_and_nothing_else(served):
    head, _, body = (await served.get(PATH)).partition(b"\r\n\r\n")

    assert body == KEY_AUTHORIZATION.encode()
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]


async def test_who_asks_for_a_token_is_told_of_and_nobody_else():
    class Away(Tokens):
        async def get(self, token):
            raise ConnectionError

    asked = []
    async with serving() as served, serving(Away()) as away:
        served.responder.on_asked = away.responder.on_asked = asked.append
        await served.get(PATH)
        await served.get(f"/.well-known/acme-challenge/{'u' * 43}")
        await served.get("/")
        await away.get(PATH)

    assert ["answered", "unknown", "unanswered"] == asked


async def test_head_says_the_length_and_sends_no_body(served):
    reply = await served.get(PATH, method="HEAD")

    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Length: %d\r\n" % len(KEY_AUTHORIZATION) in reply
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("origin", ["http://www.example.com", "http://127.0.0.1:80", "http://[::1]:8080"])
async def test_a_validator_behind_a_proxy_asks_in_absolute_form(served, origin):
    assert await served.status(origin + PATH) == [b"200"]


async def test_the_host_does_not_matter_but_there_is_exactly_one(served):
    """RFC 9112 section 3.2: 400 without a Host, and with more than one."""
    assert await served.status(PATH, headers=["hOsT: other.example"]) == [b"200"]
    assert await served.status(PATH, version="HTTP/1.0") == [b"200"]
    assert await served.status(PATH, headers=[]) == [b"400"]
    assert await served.status(PATH, headers=["Host: a", "Host: b"]) == [b"400"]
    assert await served.status(PATH, headers=["Host: a", "HOST: a"]) == [b"400"]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/../../etc/passwd",
        "/.well-known/acme-challenge/%2e%2e/x",
        f"/.well-known/acme-challenge/../acme-challenge/{TOKEN}",
        PATH + "/",
        PATH + "?x",
        PATH + "#x",
        PATH.upper(),
        "/" + PATH,
        "//evil.example" + PATH,
        "https://www.example.com" + PATH,
        f"/.well-known/acme-challenge/{'a' * 21}",
        f"/.well-known/acme-challenge/{'a' * 257}",
        "*",
    ],
)
async def test_every_other_target_is_not_found_and_looks_nothing_up(served, target):
    reply = await served.get(target)

    assert reply.startswith(b"HTTP/1.1 404")
    assert reply.endswith(b"\r\n\r\n")
    assert served.tokens.reads == []


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "CONNECT", "get"])
async def test_every_other_method_is_refused(served, method):
    assert await served.status(PATH, method=method) in ([b"404"], [b"400"])
    assert served.tokens.reads == []


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\nHost: x",
        b"GET  " + PATH.encode() + b" HTTP/1.1\r\nHost: x",
        b"GET " + PATH.encode() + b"\r\nHost: x",
        b"GET " + PATH.encode() + b" HTTP/2.0\r\nHost: x",
        b"GET " + PATH.encode() + b" HTTP/1.1\nHost: x",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\n Host: x",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost : x",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: x\x00",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\n folded",
        b"GET " + PATH.encode() + b"\x00 HTTP/1.1\r\nHost: x",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS ClientHello
    ],
)
async def test_what_is_no_http_is_refused(served, head):
    reply = await served.send(head + b"\r\n\r\n")

    assert reply.startswith(b"HTTP/1.1 400")
    assert served.tokens.reads == []


async def test_a_second_request_on_the_connection_is_never_read(served):
    request = f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    reply = await served.send(request + request + b"\x00 junk" * 1000)

    assert reply.count(b"HTTP/1.1") in {0, 1}, "the answer, or a reset for the junk"
    assert len(served.tokens.reads) == 1


async def test_a_request_may_come_in_pieces(served):
    request = f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    reply = await served.send(*(request[i : i + 1] for i in range(len(request))))

    assert reply.endswith(KEY_AUTHORIZATION.encode())


async def test_a_client_that_closes_its_half_still_gets_its_answer(served):
    reply = await served.send(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), close=True)

    assert reply.endswith(KEY_AUTHORIZATION.encode())


async def test_four_kibibytes_are_enough_for_any_request(served):
    padding = "X: " + "a" * 3500

    assert await served.status(PATH, headers=["Host: x", padding]) == [b"200"]
    assert await served.status(PATH, headers=["Host: x", padding, padding]) == [b"413"]
    assert (await served.send(b"a" * 4097)).startswith(b"HTTP/1.1 413"), "without an end in sight"


async def test_a_slow_request_is_cut_at_the_deadline():
    """A byte now and then does not keep the connection: the deadline is for the whole request."""
    async with serving(deadline_s=0.2) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        drip = asyncio.create_task(_drip(writer))
        async with asyncio.timeout(30):
            reply = await _read_all(reader)
        drip.cancel()
        writer.close()

    assert reply == b""


async def _drip(writer):
    for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 4000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def _read_all(reader):
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_slow_store_is_cut_at_the_deadline_too():
    class Hanging(Tokens):
        async def get(self, token):
            await asyncio.Event().wait()

    async with serving(Hanging(), deadline_s=0.1) as served:
        assert await served.get(PATH) in {b"", b"(reset)"}


async def test_an_unknown_token_is_looked_up_once_however_many_ask(served):
    """Single flight, then remembered for a second as unknown."""
    started = asyncio.Event()
    go = asyncio.Event()
    reads = []

    async def get(token):
        reads.append(token)
        started.set()
        await go.wait()

    served.tokens.get = get
    path = f"/.well-known/acme-challenge/{'u' * 43}"
    asking = [asyncio.create_task(served.status(path)) for _ in range(20)]
    await started.wait()
    go.set()

    assert await asyncio.gather(*asking) == [[b"404"]] * 20
    assert await served.status(path) == [b"404"]
    assert reads == ["u" * 43]


async def test_a_token_that_appears_is_found_once_its_absence_is_forgotten(served, monkeypatch):
    monkeypatch.setattr(lookup, "UNKNOWN_TTL_S", 0.0)
    late = "l" * 43
    before = await served.status(f"/.well-known/acme-challenge/{late}")
    served.tokens[late] = f"{late}.x"

    assert before == [b"404"]
    assert await served.status(f"/.well-known/acme-challenge/{late}") == [b"200"]


async def test_guessing_is_capped_and_finding_is_free(served, monkeypatch):
    monkeypatch.setattr(lookup, "MISS_BURST", 5.0)
    monkeypatch.setattr(lookup, "MISSES_PER_S", 0.0)
    served.responder._lookup._misses_left = 5.0
    for _ in range(20):
        await served.status(PATH)
    for n in range(20):
        await served.status(f"/.well-known/acme-challenge/{n:043}")

    assert len([t for t in served.tokens.reads if t != TOKEN]) == 5


async def test_what_is_remembered_as_unknown_is_bounded(served, monkeypatch):
    monkeypatch.setattr(lookup, "MAX_KNOWN_UNKNOWN", 3)
    for n in range(10):
        await served.status(f"/.well-known/acme-challenge/{n:043}")

    assert len(served.responder._lookup._unknown) == 3


async def test_a_store_that_fails_is_unavailable_and_not_told_about(served, caplog):
    """Nothing of the error reaches the Internet, and nobody can fill our log by asking."""

    async def get(token):
        raise RuntimeError("password=hunter2")

    served.tokens.get = get
    with caplog.at_level(logging.INFO):
        reply = await served.get(PATH)

    assert reply.startswith(b"HTTP/1.1 503")
    assert reply.endswith(b"\r\n\r\n")
    assert caplog.text == ""


async def test_over_the_cap_the_oldest_that_has_asked_for_nothing_goes(served, monkeypatch):
    """Who only holds connections keeps no CA out."""
    monkeypatch.setattr(http01, "MAX_CONNECTIONS", 2)
    held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(2)]
    while len(served.responder._connections) < 2:
        await asyncio.sleep(0)

    assert await served.status(PATH) == [b"200"]
    assert await _read_all(held[0][0]) == b"", "the first of them"
    held[1][1].write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await held[1][0].read()).startswith(b"HTTP/1.1 200"), "the second is still there"
    for _, writer in held:
        writer.close()


async def test_over_the_cap_nobody_goes_who_is_being_answered(monkeypatch):
    class Hanging(Tokens):
        async def get(self, token):
            self.reads.append(token)
            await asyncio.Event().wait()

    monkeypatch.setattr(http01, "MAX_CONNECTIONS", 2)
    tokens = Hanging()
    async with serving(tokens) as served:
        asking = [asyncio.create_task(served.get(PATH[:-1] + str(nth))) for nth in range(2)]
        while len(tokens.reads) < 2:
            await asyncio.sleep(0)
        assert await served.get(PATH) in {b"", b"(reset)"}
        assert not any(task.done() for task in asking)
    await asyncio.gather(*asking)


class Many(Tokens):
    """A store that is asked for many at once; ``go`` lets it answer."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.go = asyncio.Event()
        self.go.set()
        self.error = None

    async def get_many(self, tokens):
        self.batches.append([*tokens])
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return {token: self[token] for token in tokens if token in self}


async def test_guesses_keep_no_token_from_being_found(monkeypatch):
    """As many as anybody likes: they are one question, and so is what a CA asks for meanwhile."""
    monkeypatch.setattr(lookup, "MISS_BURST", 0.0)
    monkeypatch.setattr(lookup, "MISSES_PER_S", 0.0)
    async with serving(Many()) as served:
        served.tokens.go.clear()
        asking = [asyncio.create_task(served.status(f"/.well-known/acme-challenge/{0:043}"))]
        while not served.tokens.batches:
            await asyncio.sleep(0)
        asking += [
            asyncio.create_task(served.status(f"/.well-known/acme-challenge/{nth:043}"))
            for nth in range(1, 100)
        ]
        asking.append(asyncio.create_task(served.status(PATH)))
        while len(served.responder._lookup._wanted) < 100:
            await asyncio.sleep(0)
        served.tokens.go.set()

        assert [[b"404"]] * 100 + [[b"200"]] == await asyncio.gather(*asking)
        assert [1, 100] == [len(batch) for batch in served.tokens.batches]
        assert [] == served.tokens.reads


async def test_a_batch_that_fails_is_unavailable_and_the_next_is_asked():
    async with serving(Many()) as served:
        served.tokens.error = OSError("away")
        before = await served.status(PATH)
        served.tokens.error = None

        assert ([b"503"], [b"200"]) == (before, await served.status(PATH))


async def test_a_batch_that_hangs_is_given_up_and_the_next_is_asked(monkeypatch):
    monkeypatch.setattr(lookup, "ANSWER_WITHIN_S", 0.05)
    async with serving(Many()) as served:
        served.tokens.go.clear()
        before = await served.status(PATH)
        served.tokens.go.set()

        assert ([b"503"], [b"200"]) == (before, await served.status(PATH))


async def test_what_is_wanted_at_once_is_bounded(monkeypatch):
    monkeypatch.setattr(lookup, "WANTED_MAX", 0)
    async with serving(Many()) as served:
        assert await served.status(PATH) == [b"503"]


async def test_a_port_in_use_is_named(served):
    other = Http01Responder(Tokens(), host="127.0.0.1", port=served.port)
    with pytest.raises(errors.CannotListen, match=f"127.0.0.1:{served.port}: .*in use") as failure:
        await other.start()

    assert isinstance(failure.value, OSError)
    assert isinstance(failure.value, errors.AcmeError)
    assert "port" in failure.value.hint


@pytest.mark.parametrize("kind", [Http01Responder, TlsAlpn01Responder])
async def test_who_starts_it_twice_is_told_and_the_port_is_given_back_in_the_end(kind):
    responder = kind(Tokens(), host="127.0.0.1", port=0)
    port = await responder.start()
    with pytest.raises(RuntimeError, match="listens already"):
        await responder.start()
    await responder.stop()

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_stopping_cuts_what_is_open_and_twice_does_no_harm():
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        while not served.responder._connections:
            await asyncio.sleep(0)
        await served.responder.stop()
        await served.responder.stop()

        assert await _read_all(reader) == b""
        writer.close()


async def test_ipv6_is_served_where_the_host_says_so():
    tokens = Tokens()
    tokens[TOKEN] = KEY_AUTHORIZATION
    responder = Http01Responder(tokens, host="::1", port=0)
    try:
        port = await responder.start()
    except errors.CannotListen:
        pytest.skip("no IPv6 loopback here")
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: [::1]\r\n\r\n".encode())

    assert (await reader.read()).endswith(KEY_AUTHORIZATION.encode())
    writer.close()
    await responder.stop()
