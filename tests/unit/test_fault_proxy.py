"""The proxy of the tests does what it says, or what stands on it proves nothing."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fault_proxy import Fault, FaultProxy

SILENCE_S = 0.2


@pytest.fixture(params=["tcp", "unix"])
async def proxy(request, tmp_path):
    """A proxy before a server that sends back what it reads, and says `bye` at the end."""

    async def echo(reader, writer):
        while data := await reader.read(1024):
            writer.write(data)
        writer.write(b"bye")
        writer.close()

    unix = request.param == "unix"
    if unix:
        server = await asyncio.start_unix_server(echo, tmp_path / "echo")
        proxy = FaultProxy(tmp_path / "echo", listen=tmp_path / "proxy")
    else:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        proxy = FaultProxy(server.sockets[0].getsockname())
    async with server, proxy:
        yield proxy


@asynccontextmanager
async def client(proxy):
    if isinstance(proxy.address, Path):
        reader, writer = await asyncio.open_unix_connection(proxy.address)
    else:
        reader, writer = await asyncio.open_connection(*proxy.address)
    try:
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def said(reader, writer):
    writer.write(b"x")
    return await reader.read(1024)


async def ended(reader):
    try:
        return b"" == await reader.read()
    except ConnectionError:
        return True


async def test_bytes_and_ends_pass(proxy):
    async with client(proxy) as (reader, writer):
        first = await said(reader, writer)
        writer.write_eof()
        rest = await reader.read()

    assert (b"x", b"bye") == (first, rest)
    assert 1 == proxy.accepted


async def test_latency_is_waited_for_in_both_directions(proxy):
    proxy.become(Fault.LATENCY)
    loop = asyncio.get_running_loop()
    async with client(proxy) as (reader, writer):
        started = loop.time()
        await said(reader, writer)

    assert loop.time() - started >= 2 * proxy.latency_s


async def test_a_reset_ends_open_connections(proxy):
    async with client(proxy) as (reader, writer):
        await said(reader, writer)
        proxy.become(Fault.RESET)

        assert await ended(reader)


async def test_a_reset_ends_new_connections_until_it_is_healed(proxy):
    proxy.become(Fault.RESET)
    async with client(proxy) as (reader, _):
        assert await ended(reader)
    proxy.heal()
    async with client(proxy) as (reader, writer):
        assert b"x" == await said(reader, writer)


async def test_a_black_hole_is_silent_for_open_connections_and_for_new_ones(proxy):
    async with client(proxy) as (reader, writer):
        await said(reader, writer)
        proxy.become(Fault.BLACK_HOLE)
        async with client(proxy) as (late, writes_late):
            answers = [
                asyncio.create_task(said(reader, writer)),
                asyncio.create_task(said(late, writes_late)),
            ]
            done, silent = await asyncio.wait(answers, timeout=SILENCE_S)
            for answer in silent:
                answer.cancel()

    assert (0, 2) == (len(done), len(silent))


async def test_what_a_black_hole_held_flows_when_it_is_healed(proxy):
    proxy.become(Fault.BLACK_HOLE)
    async with client(proxy) as (reader, writer):
        writer.write(b"z")
        proxy.heal()

        assert b"z" == await reader.read(1024)


async def test_half_closed_the_client_reads_the_end_and_is_still_let_write(proxy):
    async with client(proxy) as (reader, writer):
        await said(reader, writer)
        proxy.become(Fault.HALF_CLOSE)
        rest = await reader.read()
        writer.write(b"heard?")
        await writer.drain()

        assert (b"", 1) == (rest, proxy.open)
