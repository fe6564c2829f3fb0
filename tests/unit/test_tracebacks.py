"""A key in a frame that fails is in no traceback, whoever prints it."""

import asyncio
import faulthandler
import gc
import io
import json
import subprocess
import sys

import aiohttp
import grpc
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from acme_engine import keys
from sds_server import log

HOST = "127.0.0.1"


def fail():
    """Raise with a key in clear among the local variables; the exception knows what it is about."""
    pem = keys.pem(ec.generate_private_key(ec.SECP256R1()))
    held = {"key": pem, "text": pem.decode()}
    raise ValueError(f"cannot use {len(held)} keys")


@pytest.fixture
def lines():
    stream = io.StringIO()
    log.configure(level="debug", stream=stream)
    return stream


def clean(text):
    assert "BEGIN" not in text
    assert "MIGH" not in text
    return "fail" in text


async def test_not_in_that_of_a_grpc_handler(lines):
    async def handler(_request, _call):
        fail()

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": method}),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/s/m")(b"")
    await server.stop(None)

    clean(str(refused.value))
    assert clean(lines.getvalue())


async def test_not_in_that_of_an_http_handler(lines):
    async def handler(_request):
        fail()

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    async with (
        aiohttp.ClientSession() as session,
        session.get("http://{}:{}/".format(*runner.addresses[0])) as response,
    ):
        said = await response.text()
    await runner.cleanup()

    clean(said)
    assert clean(lines.getvalue())


async def test_not_in_that_of_a_task_that_nobody_waited_for(lines):
    async def failing():
        fail()

    task = asyncio.create_task(failing())
    await asyncio.wait([task])
    del task
    gc.collect()

    assert clean(lines.getvalue())


def test_not_in_that_of_a_loop_that_crashed(lines):
    try:
        fail()
    except ValueError:
        log.get("loop").exception("loop.crashed", loop="feed")

    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert clean(line["exception"])


def test_not_in_what_faulthandler_writes_of_a_process_that_dies(tmp_path):
    with (tmp_path / "dump").open("w+") as file:
        pem = keys.pem(ec.generate_private_key(ec.SECP256R1()))
        faulthandler.dump_traceback(file=file)
        file.seek(0)
        said = file.read()

    clean(said)
    assert pem
    assert "test_not_in_what_faulthandler_writes" in said


def test_not_in_that_of_a_process_that_ends_by_an_exception():
    program = "from tests.unit.test_tracebacks import fail; fail()"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert 1 == run.returncode
    assert clean(run.stdout + run.stderr)
