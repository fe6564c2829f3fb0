"""One exchange: nonces, what is sent again, Retry-After, and a CA taken for hostile (RFC 8555 section 6)."""

import asyncio
import gzip
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from multidict import CIMultiDict

from acme_engine import Actor, Client, KeyType, Refused, keys
from acme_engine.client import answers
from acme_engine.errors import BadReply, Misconfigured, Unreachable, Untrusted
from acme_engine.http1 import MAX_BODY, Answer
from acme_engine.transport import (
    BAD_NONCE_TRIES,
    LONGEST_RETRY_AFTER,
    PATIENCE_S,
    Transport,
    ahead,
    parse_retry_after,
)
from acme_engine.trust import tls
from sds_server.programs.child import free_port
from tests.support import pki
from tests.support.fake_ca import fake_ca, problem
from tests.support.fault_proxy import Fault, FaultProxy

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
KEY = keys.generate(KeyType.ECDSA_P256)
NAMES = ["www.example.com"]


async def test_every_request_names_product_and_version(ca, client):
    await client.new_order(NAMES)

    assert "certvoy/" in ca.requests[0].headers["User-Agent"]
    assert ca.requests[0].headers["Content-Type"] == "application/jose+json"


async def test_no_request_goes_by_a_thread(client):
    """A hop to a thread and back costs more than a signature; aiohttp makes two to read the environment."""
    hops = []

    class Counting(ThreadPoolExecutor):
        def submit(self, call, *arguments, **named):
            hops.append(call)
            return super().submit(call, *arguments, **named)

    asyncio.get_running_loop().set_default_executor(Counting(max_workers=1))
    await client.new_order(NAMES)

    assert [] == hops


async def test_a_refused_nonce_is_replaced_by_the_one_in_the_refusal(ca, client):
    """RFC 8555 section 6.5: "a client SHOULD retry the request using the new nonce"."""
    refused = []
    client._transport._on_bad_nonce = lambda: refused.append(1)
    for n in range(4):
        ca.next("/new-order", 400, problem("badNonce"), Replay_Nonce=f"fresh-{n}")
    order = await client.new_order(NAMES)

    sent = ca.posts("/new-order")
    assert order.status == "pending"
    assert [r.protected["nonce"] for r in sent[1:]] == ["fresh-0", "fresh-1", "fresh-2", "fresh-3"]
    assert len({r.raw for r in sent}) == 5
    assert 4 == len(refused)
    assert ca.heads == 0, "the directory brought a nonce, and each refusal the next"


async def test_a_ca_that_refuses_every_nonce_is_given_up(ca, client, slept):
    for _ in range(BAD_NONCE_TRIES + 1):
        ca.next("/new-order", 400, problem("badNonce"))
    with pytest.raises(Refused) as refusal:
        await client.new_order(NAMES)

    assert refusal.value.problem.code == "badNonce"
    assert len(ca.posts("/new-order")) == BAD_NONCE_TRIES
    assert slept == []


async def test_a_nonce_is_opaque(ca, client):
    """What is no canonical base64url ("AB"), or of length 4n+1, goes back as it came."""
    ca.next(
        "/directory",
        200,
        json.dumps({"newNonce": f"{ca.url}/n", "newAccount": "x", "newOrder": f"{ca.url}/new-order"}),
        Replay_Nonce="AB",
    )
    await client.directory()
    ca.next("/new-order", 400, problem("badNonce"), Replay_Nonce="ABCDE")
    await client.new_order(NAMES)

    assert [r.protected["nonce"] for r in ca.posts("/new-order")] == ["AB", "ABCDE"]


@pytest.mark.parametrize("nonce", ["a b", "a+b=", "é", "n" * 2000])
async def test_an_invalid_nonce_is_ignored(ca, client, nonce):
    """RFC 8555 section 6.5.1: "Clients MUST ignore invalid Replay-Nonce values"."""
    ca.next("/nonce", 200, Replay_Nonce=nonce)
    await client.directory()
    client._transport._nonces.clear()
    with pytest.raises(BadReply, match="Replay-Nonce"):
        await client.new_order(NAMES)


async def test_a_nonce_is_asked_for_only_while_there_is_none(ca, client):
    await client.directory()
    client._transport._nonces.clear()
    for _ in range(3):
        await client.new_order(NAMES)

    assert ca.heads == 1


async def test_a_nonce_that_has_lain_for_long_is_not_tried(ca, client, monkeypatch):
    await client.directory()
    monkeypatch.setattr("acme_engine.transport.NONCE_S", -1.0)
    with pytest.raises(BadReply, match="Replay-Nonce"):
        await client.new_order(NAMES)

    assert ca.heads == 1


async def test_many_requests_at_once_each_have_a_nonce_of_their_own(ca, client):
    ca.names, ca.order = NAMES, {"status": "ready"}
    await client.directory()
    client._transport._nonces.clear()
    await asyncio.gather(*(client.order(ca.order_url) for _ in range(60)))

    assert len({r.protected["nonce"] for r in ca.requests}) == 60


async def test_the_newest_nonce_is_taken_and_the_pool_is_bounded(ca, client):
    await client.directory()
    for n in range(40):
        client._transport._keep_nonce([f"n{n}"])

    assert len(client._transport._nonces) == 32
    await client.new_order(NAMES)
    assert ca.posts("/new-order")[0].protected["nonce"] == "n39"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_ca_is_asked_again_after_its_retry_after(ca, client, slept, status):
    ca.next("/new-order", status, problem("rateLimited"), Retry_After="7")
    order = await client.new_order(NAMES)

    assert order.status == "pending"
    assert slept == [7]
    first, second = ca.posts("/new-order")
    assert first.raw != second.raw


async def test_without_retry_after_the_pauses_grow(ca, client, slept):
    for _ in range(3):
        ca.next("/order", 502, "<html>")
    ca.names, ca.order = NAMES, {"status": "ready"}
    await client.order(ca.order_url)

    assert [round(s) for s in slept] == pytest.approx([1, 2, 4], abs=1)


async def test_a_limit_longer_than_our_patience_is_handed_up_at_once(ca, client, slept):
    """A rate limit may last days: whoever schedules must know, and nothing may sit and wait."""
    ca.next("/new-order", 429, problem("rateLimited"), Retry_After="93600")
    with pytest.raises(Refused) as refusal:
        await client.new_order(NAMES)

    assert refusal.value.retry_after == timedelta(hours=26)
    assert refusal.value.retryable
    assert slept == []


async def test_a_limit_is_handed_up_where_others_can_be_kept_from_asking(ca, slept):
    ca.next("/directory", 429, problem("rateLimited"), Retry_After="7")
    async with Client(
        ca.directory_url, account_key=KEY, allow_http=True, sleep=slept, hands_up_limits=True
    ) as client:
        with pytest.raises(Refused) as refusal:
            await client.directory()

    assert timedelta(seconds=7) == refusal.value.retry_after
    assert slept == []


async def test_a_short_patience_ends_soon(ca, slept):
    for _ in range(9):
        ca.next("/directory", 502)
    async with Client(
        ca.directory_url, account_key=KEY, allow_http=True, sleep=slept, patience_s=4.0
    ) as client:
        with pytest.raises(Refused):
            await client.directory()

    assert 1 <= len(slept) <= 2


async def test_a_ca_that_is_there_answers(ca):
    await answers(ca.directory_url, allow_http=True)

    assert 0 == ca.heads + len(ca.requests)


@pytest.mark.parametrize(("status", "body"), [(503, ""), (404, ""), (200, "<html>"), (200, "{}")])
async def test_a_ca_that_shows_no_directory_does_not(ca, status, body):
    ca.next("/directory", status, body)
    with pytest.raises((Refused, BadReply)):
        await answers(ca.directory_url, allow_http=True)


async def test_whether_a_silent_ca_is_there_is_not_waited_for():
    async with FaultProxy(("127.0.0.1", free_port())) as silent:
        silent.become(Fault.BLACK_HOLE)
        host, port = silent.address
        with pytest.raises(Unreachable, match="no answer within"):
            await answers(f"http://{host}:{port}/dir", allow_http=True, within_s=0.1)


async def test_patience_ends(ca, client, slept):
    for _ in range(20):
        ca.next("/order", 500)
    with pytest.raises(Refused):
        await client.order(ca.order_url)

    assert PATIENCE_S / 2 < sum(slept) <= PATIENCE_S


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_failing_ca_is_asked_for_an_order_again_but_never_to_finalize(ca, client, slept, status):
    """What a finalize did is read from the order; a second order costs little."""
    ca.next("/new-order", status)
    order = await client.new_order(NAMES)
    ca.next("/finalize", status)
    with pytest.raises(Refused) as refusal:
        await client.finalize(order, b"csr")

    assert [r.path for r in ca.requests] == ["/new-order", "/new-order", "/finalize"]
    assert refusal.value.actor is Actor.CA
    assert refusal.value.retryable
    assert len(slept) == 1


async def test_a_new_order_that_was_cut_off_is_not_repeated(ca, client, slept):
    """Orders are counted, and nobody knows whether this one was made; reading does no harm."""
    await client.directory()
    cut = Cut(client._transport._connections)
    client._transport._connections = cut
    with pytest.raises(Unreachable):
        await client.new_order(NAMES)
    ca.names, ca.order = NAMES, {"status": "ready"}
    await client.order(ca.order_url)

    assert ca.posts("/new-order") == []
    assert len(slept) == 1
    assert cut.cuts == {"/new-order", "/order"}


class Cut:
    """Connections of which the first request to each path is cut off."""

    def __init__(self, connections):
        self.connections = connections
        self.cuts = set()
        self.close = connections.close

    async def exchange(self, method, path, fields, body=None, **more):
        if method == "POST" and path not in self.cuts:
            self.cuts.add(path)
            raise ConnectionResetError
        return await self.connections.exchange(method, path, fields, body, **more)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_retry_after_as_a_date_is_in_gmt_whatever_the_local_zone(zone, monkeypatch):
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        got = parse_retry_after("Tue, 24 Nov 2026 09:00:00 GMT", now=NOW)
    finally:
        monkeypatch.setenv("TZ", before) if before else monkeypatch.delenv("TZ")
        time.tzset()

    assert got == timedelta(hours=1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", timedelta(minutes=2)),
        (" 0 ", timedelta(0)),
        ("Tue, 24 Nov 2026 07:00:00 GMT", timedelta(0)),
        ("Tue, 24 Nov 2026 08:00:30 -0000", timedelta(seconds=30)),
        (None, None),
        ("soon", None),
        ("-5", None),
        ("9" * 30, None),
        ("9" * 12, LONGEST_RETRY_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("²", None),
    ],
)
def test_retry_after(value, expected):
    assert parse_retry_after(value, now=NOW) == expected


async def test_urls_of_another_origin_are_refused_unasked(ca, client):
    """What the CA names is asked only where the CA is: it must not aim us at others."""
    host = ca.url.removeprefix("http://")
    for foreign in (
        "https://evil.example/order",
        f"https://{host}/order",
        "http://127.0.0.1:1/order",
        f"http://evil.example@127.0.0.1:{free_port()}/",
        "/order",
        "file:///etc/passwd",
        "http://[",
        "",
    ):
        ca.directory = {"newOrder": foreign} if foreign else {"newOrder": "x"}
        client._directory = None
        with pytest.raises(BadReply, match=r"elsewhere|not a URL"):
            await client.new_order(NAMES)

    assert ca.requests == []


async def test_a_redirect_is_not_followed(ca, client):
    ca.next("/new-order", 307, Location=f"{ca.url}/order")
    with pytest.raises(BadReply, match="redirects"):
        await client.new_order(NAMES)

    assert ca.posts("/order") == []


async def test_a_body_over_a_mebibyte_is_cut_off(ca, client):
    ca.next("/order", 200, "x" * (2 * MAX_BODY))
    with pytest.raises(BadReply, match=str(MAX_BODY)):
        await client.order(ca.order_url)


@pytest.mark.parametrize(
    "body", ["", "<html>", "[]", "null", "[" * 100_000, '{"status": 5}', '{"status": "valid"}']
)
async def test_a_body_of_another_shape_is_a_bad_reply(ca, client, body):
    ca.next("/order", 200, body)
    with pytest.raises(BadReply):
        await client.order(ca.order_url)


async def test_a_compressed_answer_is_never_opened(ca, client):
    """Nothing is asked to be compressed, so a bomb stays what it is: bytes that are no JSON."""
    ca.next("/order", 200, gzip.compress(b"{}"), Content_Encoding="gzip")
    with pytest.raises(BadReply, match="JSON"):
        await client.order(ca.order_url)

    assert ca.requests[-1].headers["Accept-Encoding"] == "identity"


async def test_a_problem_is_kept_whole(ca, client):
    ca.next(
        "/new-order",
        403,
        problem(
            "userActionRequired", instance="https://ca.example/terms/7", title="Terms changed", status=999
        ),
        Link='<https://ca.example/t>;rel="terms-of-service", <https://ca.example/d>; rel="index"',
        Retry_After="60",
    )
    with pytest.raises(Refused) as refusal:
        await client.new_order(NAMES)

    got = refusal.value.problem
    assert (got.code, got.title, got.status) == ("userActionRequired", "Terms changed", 403)
    assert got.instance == "https://ca.example/terms/7"
    assert got.links == (("terms-of-service", "https://ca.example/t"), ("index", "https://ca.example/d"))
    assert got.retry_after == timedelta(minutes=1)
    assert not refusal.value.retryable, "a person must act"


async def test_a_conflict_keeps_its_problem(ca, client):
    ca.next("/new-order", 409, problem("alreadyReplaced"))
    with pytest.raises(Refused) as refusal:
        await client.new_order(NAMES)

    assert refusal.value.problem.code == "alreadyReplaced"


async def test_a_ca_that_is_not_there_is_said_at_once(slept):
    port = free_port()
    async with Client(
        f"http://127.0.0.1:{port}/dir", account_key=KEY, allow_http=True, sleep=slept
    ) as client:
        with pytest.raises(Unreachable, match=str(port)) as refusal:
            await client.directory()

    assert refusal.value.retryable
    assert refusal.value.actor is Actor.OPERATOR
    assert slept == []


async def test_a_ca_that_hangs_up_is_a_clear_error(slept):
    async def hang_up(_reader, writer):
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        Client(f"http://127.0.0.1:{port}/", account_key=KEY, allow_http=True, sleep=slept) as client,
    ):
        with pytest.raises(Unreachable):
            await client.directory()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/dir",
        "http://ca.example/dir",
        "ca.example",
        "https://",
        "ftp://ca.example",
        "http://[",
    ],
)
def test_only_https_is_spoken(url):
    with pytest.raises(Misconfigured, match=r"https|not a URL"):
        Client(url, account_key=KEY)


def test_plain_http_is_for_loopback_only():
    with pytest.raises(Misconfigured, match="https"):
        Client("http://ca.example/dir", account_key=KEY, allow_http=True)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_ca_file_that_cannot_be_used_is_said_at_once(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured, match=str(path)):
        async with Client("https://ca.example/dir", account_key=KEY, ca_file=path):
            pass


def test_what_is_trusted_is_read_once_for_many_clients_and_again_when_it_has_changed(tmp_path):
    """The system's roots take 23 ms to read, which is more than all the rest of an order."""
    path = pki.authority("One").write(tmp_path / "ca.pem")
    first, second, system = tls(path), tls(path), tls(None)
    pki.authority("Another").write(path)
    changed = tls(path)

    assert first is second
    assert system is tls(None)
    assert ["One"] == trusted(first)
    assert ["Another"] == trusted(changed)


def trusted(context):
    return [dict(part[0] for part in ca["subject"])["commonName"] for ca in context.get_ca_certs()]


@pytest.mark.parametrize("spelled", [Path, str])
async def test_a_ca_file_is_the_only_trust(tmp_path, spelled):
    """An internal CA's clients must not believe the public ones."""
    path = spelled(pki.authority("Ours").write(tmp_path / "ca.pem"))
    async with Client("https://ca.example/dir", account_key=KEY, ca_file=path) as client:
        context = client._transport._connections._tls()

    assert context.cert_store_stats()["x509_ca"] == 1


async def test_a_certificate_for_another_name_is_not_believed(tmp_path):
    """Of a CA that we trust, too: whoever stands between may have one of it."""
    async with fake_ca(tmp_path) as ca:  # its certificate names the address alone
        named = ca.directory_url.replace("127.0.0.1", "localhost")
        async with Client(named, account_key=KEY, ca_file=tmp_path / "fake-ca.pem") as client:
            with pytest.raises(Untrusted, match="does not verify"):
                await client.directory()
        async with Client(ca.directory_url, account_key=KEY, ca_file=tmp_path / "fake-ca.pem") as client:
            await client.directory()


@pytest.mark.parametrize(
    ("date", "expected_s"),
    [
        ("Tue, 24 Nov 2026 09:00:05 GMT", 0),  # between the two moments
        ("Tue, 24 Nov 2026 08:59:59 GMT", 0),  # the second that ends when the request was sent
        ("Tue, 24 Nov 2026 08:58:00 GMT", 119),
        ("Tue, 24 Nov 2026 09:02:00 GMT", -110),
        ("yesterday", None),
        (None, None),
    ],
)
def test_how_far_our_clock_is_ahead_is_what_an_answer_s_time_does_not_explain(date, expected_s):
    sent_at = datetime(2026, 11, 24, 9, 0, 0, tzinfo=UTC)
    got = ahead(date, sent_at=sent_at, heard_at=sent_at + timedelta(seconds=10))

    assert expected_s == (None if got is None else got.total_seconds())


async def test_links_without_an_end_are_read_in_no_time(ca, client):
    """A header of 60 kB, read again from each of its brackets, held the loop for forty seconds."""
    client._transport._connections = Says(b"{}", Link="<" * 60_000)
    began = time.process_time()
    reply = await client._transport.get(ca.directory_url)
    links = reply.links()

    assert [] == links
    assert time.process_time() - began < 1


class Says:
    """Connections that have one answer to all."""

    def __init__(self, body, status=200, reason="", **headers):
        self.answer = Answer(status, reason, CIMultiDict(headers), bytearray(body))

    async def exchange(self, *_request, **_more):
        return self.answer

    async def close(self):
        pass


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +2359"])
async def test_a_date_at_the_end_of_time_is_no_date(ca, client, date):
    heard = []
    client._transport._on_date = heard.append
    client._transport._connections = Says(b"{}", Date=date)
    await client._transport.get(ca.directory_url)


@pytest.mark.parametrize(("age", "times"), [({}, 1), ({"Age": "600"}, 0)])
async def test_the_time_of_an_answer_that_a_cache_kept_is_no_time_of_now(ca, client, age, times):
    """RFC 9111 section 5.1: its Date is that of the answer when the CA gave it."""
    heard = []
    client._transport._on_date = heard.append
    client._transport._connections = Says(b"{}", Date="Tue, 24 Nov 2026 09:00:00 GMT", **age)
    await client._transport.get(ca.directory_url)

    assert times == len(heard)


@pytest.mark.parametrize("location", ["http://[", "http://ca\\@evil/", "//[::1"])
async def test_a_location_that_is_no_url_is_a_bad_reply(ca, client, location):
    ca.next("/new-order", 201, "{}", Location=location)
    with pytest.raises(BadReply):
        await client.new_order(NAMES)


async def test_a_reason_is_quoted_and_not_kept_whole(ca, client):
    client._transport._connections = Says(b"", 403, "r" * 60_000)
    with pytest.raises(Refused) as refusal:
        await client._transport.get(ca.directory_url)

    assert "r" * 200 == refusal.value.problem.detail


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://ca.test/a/B_9-=", "/a/B_9-="),
        ("HTTPS://CA.test:443/a", "/a"),
        ("https://ca\u2024test/a", "/a"),
        (" https://ca.test/a", "/a"),
        ("https://ca.test", "/"),
        ("https://ca.test//evil.test/", "//evil.test/"),
        ("https://ca.test/a b\r\nHost: evil", "/a%20bHost:%20evil"),
        ("https://ca.test/a%0d%0aHost:%20evil?q=%20", "/a%0D%0AHost:%20evil?q=%20"),
        ("https://ca.test/ä#f", "/%C3%A4"),
        ("https://user:secret@ca.test/a", "/a"),
    ],
)
def test_of_a_url_only_the_path_is_asked_for(url, path):
    assert path == Transport("https://ca.test/dir", user_agent="x")._pinned(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://ca.test.evil.test/a",
        "https://ca.test@evil.test/a",
        "https://ca.test:444/a",
        "https://ca.test./a",
        "http://ca.test/a",
        "//ca.test/a",
        "https://ca.test\\@evil.test/a",
        "https:ca.test/a",
    ],
)
def test_a_url_of_nearly_the_origin_is_of_another(url):
    with pytest.raises(BadReply):
        Transport("https://ca.test/dir", user_agent="x")._pinned(url)


@pytest.mark.parametrize(
    "directory", ["https://CA.test:443/d", "https://bücher.test/d", "https://[::1]:14000/d"]
)
def test_an_origin_is_written_in_more_than_one_way(directory):
    transport = Transport(directory, user_agent="x")

    assert "/a" == transport._pinned(directory.replace("/d", "/a"))
    assert "/a" == transport._pinned(f"{transport._origin}/a")
