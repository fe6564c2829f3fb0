"""The operator's URL: 200 is a yes, and whatever else happens is a no, soon."""

import asyncio

import pytest
from aiohttp import web

from acme_engine.pace import Pace
from sds_server.on_demand import ask as asks
from sds_server.on_demand.ask import PER_SECOND, Asker
from sds_server.on_demand.rules import Result
from tests.support.clocks import HastyClock

AT_ONCE = 2


@pytest.fixture
async def asker():
    asker = Asker(within_s=0.3)
    yield asker
    await asker.close()


@pytest.fixture
async def site():
    """An operator's service, and the questions that came to it."""
    asked, answering = [], []

    async def answer(request):
        asked.append((request.path_qs, dict(request.headers)))
        answering.append(len(answering) + 1)
        try:
            return await said(request)
        finally:
            answering.pop()

    async def said(request):
        match request.query["domain"]:
            case "yes.test":
                return web.Response()
            case "elsewhere.test":
                raise web.HTTPFound("/ask?domain=yes.test&from=there")
            case "busy.test":
                await asyncio.sleep(0.1)
                return web.Response(status=200 if len(answering) <= AT_ONCE else 500)
            case "slow.test":
                await asyncio.sleep(5)
            case "long.test":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b"x" * 65536)
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/ask", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/ask", asked
    await runner.cleanup()


@pytest.mark.parametrize(
    ("name", "why_not"),
    [
        ("yes.test", None),
        ("no.test", Result.REFUSED),
        ("elsewhere.test", Result.REFUSED),
        ("slow.test", Result.UNANSWERED),
        ("long.test", None),  # the status is the answer
    ],
)
async def test_only_200_is_a_yes(asker, site, name, why_not):
    url, asked = site

    assert why_not == await asker.ask(url, name)
    assert [f"/ask?domain={name}"] == [path for path, _ in asked]  # no redirect was followed


async def test_a_url_keeps_the_parameters_that_it_has(asker, site):
    url, asked = site
    await asker.ask(f"{url}?key=a%26b", "yes.test")

    assert "/ask?key=a%26b&domain=yes.test" == asked[0][0]


async def test_nobody_there_is_a_no(asker):
    assert Result.UNANSWERED == await asker.ask("http://127.0.0.1:1/ask", "yes.test")


async def test_so_many_questions_are_under_way_at_once_and_the_others_wait(site, monkeypatch):
    monkeypatch.setattr(asks, "AT_ONCE", AT_ONCE)
    url, asked = site
    asker = Asker(within_s=20)
    answers = await asyncio.gather(*(asker.ask(url, "busy.test") for _ in range(3 * AT_ONCE)))
    await asker.close()

    assert [None] * 3 * AT_ONCE == answers
    assert 3 * AT_ONCE == len(asked)


async def test_questions_come_so_many_a_second_at_most(site):
    """However many names somebody makes up: the first goes at once, each other one in its turn."""
    url, asked = site
    clock = HastyClock()
    asker = Asker(within_s=20, pace=Pace(PER_SECOND, clock=clock.monotonic, sleep=clock.sleep))
    for number in range(1 + PER_SECOND):
        await asker.ask(url, f"{number}.test")
    await asker.close()

    assert 1 + PER_SECOND == len(asked)
    assert pytest.approx(1.0) == clock.monotonic()


async def test_neither_cookies_nor_the_environment_change_a_question(asker, site, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    url, asked = site

    assert await asker.ask(url, "yes.test") is None
    assert "Cookie" not in asked[0][1]
