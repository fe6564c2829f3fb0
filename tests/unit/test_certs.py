"""Envoy's own statement: the serial numbers of what it has loaded, and a clear word where there is none."""

import asyncio

import pytest
from aiohttp import web

from sds_server.errors import CallerError
from sds_server.programs.child import free_port
from sds_server.targets import certs
from sds_server.targets.certs import loaded_serials
from sds_server.targets.probe import ProbeFailed


@pytest.fixture
async def admin():
    """An admin interface whose answer to /certs a test decides; it is called with that."""
    runners = []

    async def serve(answer):
        app = web.Application()
        app.router.add_get("/certs", answer)
        app.router.add_get("/elsewhere", says(text='{"certificates": []}'))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        return f"127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


def says(**more):
    async def answer(_request):
        return web.Response(**more)

    return answer


async def test_the_leaves_serials_are_numbers_however_they_are_padded(admin):
    listed = """{"certificates": [
        {"ca_cert": [{"serial_number": "99"}],
         "cert_chain": [{"serial_number": "00ab"}, {"serial_number": "7"}]},
        {"ca_cert": [{"serial_number": "98"}], "cert_chain": []},
        {"cert_chain": [{"serial_number": "ff"}]}]}"""

    assert {0xAB, 0xFF} <= await loaded_serials(await admin(says(text=listed)))
    assert not {0x99, 0x98, 7} & await loaded_serials(await admin(says(text=listed)))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (says(status=503), "HTTP 503"),
        (says(status=302, headers={"Location": "/elsewhere"}), "HTTP 302"),
        (says(text="<html>"), "something else than Envoy's list"),
        (says(text="[]"), "something else than Envoy's list"),
        (says(text="[" * 200_000), "something else than Envoy's list"),
        (says(text='{"certificates": [{"cert_chain": [{"serial_number": "xyz"}]}]}'), "something else"),
        (says(text='{"certificates": [1]}'), "something else"),
    ],
)
async def test_what_is_no_list_of_envoys_proves_nothing(admin, answer, why):
    with pytest.raises(ProbeFailed, match=why):
        await loaded_serials(await admin(answer))


async def test_an_answer_without_end_is_cut(admin, monkeypatch):
    monkeypatch.setattr(certs, "BODY_MAX", 1000)

    with pytest.raises(ProbeFailed, match="more than"):
        await loaded_serials(await admin(says(text=" " * 1001)))


async def test_who_does_not_answer_is_waited_for_a_while(admin, monkeypatch):
    monkeypatch.setattr(certs, "TIMEOUT_S", 0.05)

    async def hang(_request):
        await asyncio.sleep(30)

    with pytest.raises(ProbeFailed, match="not answered within"):
        await loaded_serials(await admin(hang))


async def test_nobody_there_is_said():
    address = f"127.0.0.1:{free_port()}"

    with pytest.raises(ProbeFailed, match=address):
        await loaded_serials(address)


async def test_an_address_that_is_none_is_refused():
    with pytest.raises(CallerError, match="must be host:port"):
        await loaded_serials("localhost")
