"""Asking a responder: by GET or POST, never out of the web, never for long, never without an end."""

import asyncio
from ipaddress import ip_network

import pytest

from sds_server.staples import responder
from sds_server.staples.responder import ask
from sds_server.staples.response import Finding, judge, request
from sds_server.targets.guarded import ANYWHERE, Unanswered
from tests.support.pki import authority
from tests.support.responder import Responder

CA = authority("Sites")
LEAF = CA.issue(["www.example.test"]).certificate
ASKED = request(LEAF, CA.certificate)


@pytest.fixture
async def server():
    async with Responder(CA) as server:
        server.known[LEAF.serial_number] = LEAF
        yield server


async def test_its_answer_is_had_by_one_get(server, now):
    answer = await ask(server.url, ASKED, allowed=ANYWHERE)

    assert ["GET"] == server.asked
    assert Finding.GOOD is judge(answer, leaf=LEAF, issuer=CA.certificate, now=now).finding


async def test_one_that_takes_no_get_is_posted_to(server, now):
    server.only_post = True
    answer = await ask(server.url, ASKED, allowed=ANYWHERE)

    assert ["GET", "POST"] == server.asked
    assert Finding.GOOD is judge(answer, leaf=LEAF, issuer=CA.certificate, now=now).finding


async def test_a_request_that_is_too_long_for_a_get_is_posted(server):
    await ask(f"{server.url}{'long/' * 40}", ASKED, allowed=ANYWHERE)

    assert ["POST"] == server.asked


async def test_a_redirect_within_the_web_is_followed(server, now):
    async with Responder(CA) as other:
        other.known[LEAF.serial_number] = LEAF
        server.redirect = other.url
        answer = await ask(server.url, ASKED, allowed=ANYWHERE)

    assert Finding.GOOD is judge(answer, leaf=LEAF, issuer=CA.certificate, now=now).finding


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "http:///x", ""])
async def test_a_redirect_out_of_the_web_or_in_a_circle_is_not(server, to):
    server.redirect = to
    with pytest.raises(Unanswered, match="redirect"):
        await ask(server.url, ASKED, allowed=ANYWHERE)


async def test_a_redirect_to_where_nobody_may_go_is_not_followed(server):
    server.redirect = "http://169.254.169.254/latest/meta-data/"
    with pytest.raises(Unanswered, match="instance metadata"):
        await ask(server.url, ASKED, allowed=ANYWHERE)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_of_special_addresses_only_those_that_are_listed_are_asked(server, host):
    url = server.url.replace("127.0.0.1", host)
    with pytest.raises(Unanswered, match="loopback"):
        await ask(url, ASKED, allowed=[ip_network("10.0.0.0/8")])

    assert [] == server.asked
    assert await ask(url, ASKED, allowed=[ip_network("127.0.0.0/8"), ip_network("::1/128")])


@pytest.mark.parametrize("host", ["127.1", "2130706433", "127.0.0.1.", "①②⑦.0.0.1", "127。0。0。1"])
async def test_an_address_that_is_written_oddly_is_judged_as_the_one_that_it_is(server, host):
    """The HTTP client takes these for addresses, which no resolver is asked for."""
    url = server.url.replace("127.0.0.1", host)
    with pytest.raises(Unanswered):
        await ask(url, ASKED, allowed=[ip_network("10.0.0.0/8")])

    assert [] == server.asked


async def test_an_answer_without_an_end_is_cut_off(server):
    server.answer = b"x" * 20_001
    with pytest.raises(Unanswered, match="more than 20000 bytes"):
        await ask(server.url, ASKED, allowed=ANYWHERE)


async def test_a_responder_that_is_down_is_said(server):
    server.down = True
    with pytest.raises(Unanswered, match="HTTP 503"):
        await ask(server.url, ASKED, allowed=ANYWHERE)


async def test_one_that_does_not_answer_is_waited_for_only_so_long(server, monkeypatch):
    monkeypatch.setattr(responder, "DEADLINE_S", 0.05)
    server.holds = True
    async with asyncio.timeout(30):
        with pytest.raises(Unanswered, match="did not answer within"):
            await ask(server.url, ASKED, allowed=ANYWHERE)


async def test_nobody_there_is_said():
    with pytest.raises(Unanswered, match=r"127\.0\.0\.1"):
        await ask("http://127.0.0.1:1/", ASKED, allowed=ANYWHERE)
