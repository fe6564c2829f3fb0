"""docs/how-to/http-01.md: port 80 leads challenges on, with one replica down, and redirects all else."""

import asyncio
import os
from contextlib import asynccontextmanager

import aiohttp
import pytest

from acme_engine import Client, KeyType, keys
from sds_server.programs.child import Child, free_port
from tests.support import debian, pebble
from tests.support.acme import MemoryJournal, Orderer, Tokens, responding
from tests.support.caddy import PROGRAM as CADDY
from tests.support.haproxy import HAProxy
from tests.support.pages import DOCS, blocks, section
from tests.support.traefik import Traefik

pytestmark = pytest.mark.debian

PAGE = DOCS / "how-to" / "http-01.md"
NAME = "www.example.com"
HOST = "127.0.0.1"
CHALLENGES = "/.well-known/acme-challenge"


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    running = pebble.start(tmp_path_factory.mktemp("pebble"), kind=True)
    yield running
    asyncio.run(running.stop())


@pytest.fixture
def replicas():
    """The ports of the two that the page names: nobody listens at the second."""
    return free_port(), free_port()


@pytest.fixture
def example(replicas, ca):
    """A section's configuration, at ports of ours."""

    def example(heading, language, **ours):
        (text,) = blocks(section(PAGE, heading), language)
        one, two = replicas
        for theirs, own in {"10.0.0.11:8080": f"{HOST}:{one}", "10.0.0.12:8080": f"{HOST}:{two}"}.items():
            assert theirs in text
            text = text.replace(theirs, own)
        for theirs, own in ours.items():
            assert theirs in text
            text = text.replace(theirs, own)
        return text

    return example


async def nginx(home, port, example):
    scratch = "".join(f"{kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy"))
    scratch += "".join(f"{kind}_temp_path {home}/{kind};\n" for kind in ("fastcgi", "uwsgi", "scgi"))
    ours = {"listen 80;": f"listen {HOST}:{port};", "    listen [::]:80;\n": ""}
    user = "user root;" if os.getuid() == 0 else ""
    config = home / "nginx.conf"
    config.write_text(
        f"{user} daemon off; worker_processes 1; pid {home}/nginx.pid; events {{}}\n"
        f"http {{ access_log off;\n{scratch}{example('nginx', 'nginx', **ours)}}}\n"
    )
    program = debian.program("nginx", of="nginx")
    return Child("nginx", [program, "-p", home, "-e", "stderr", "-c", config], log=home / "nginx.log")


async def haproxy(home, port, example):
    running = HAProxy(home, "")
    text = example("HAProxy", "haproxy", **{"bind :::80 v4v6": f"bind {HOST}:{port}"})
    running.write(f"defaults\n    timeout client 10s\n    timeout server 10s\n{text}")
    await running.start()
    return running


async def traefik(home, port, example):
    running = Traefik(home)
    running.settings["entryPoints"]["web"] = {"address": f"{HOST}:{port}"}
    (running.dynamic / "challenges.yml").write_text(example("Traefik", "yaml"))
    await running.start()
    return running


async def caddy(home, port, example):
    site = f"http://{NAME}:{port} {{\n\tbind {HOST}"
    config = home / "Caddyfile"
    config.write_text(
        f"{{\n\tadmin off\n\tstorage file_system {home}/store\n}}\n"
        + example("Caddy", "caddyfile", **{f"http://{NAME} {{": site})
    )
    command = [CADDY, "run", "--config", config, "--adapter", "caddyfile"]
    return Child("caddy", command, log=home / "caddy.log", env={"HOME": str(home)})


PROGRAMS = {"nginx": nginx, "haproxy": haproxy, "traefik": traefik, "caddy": caddy}


@asynccontextmanager
async def asking(port):
    """Ask at port 80 of the name, as the world does."""
    async with aiohttp.ClientSession(trust_env=False) as session:

        async def ask(path):
            async with session.get(
                f"http://{HOST}:{port}{path}", headers={"Host": NAME}, allow_redirects=False
            ) as answer:
                return answer.status, answer.headers.get("Location"), await answer.read()

        yield ask


async def until_it_serves(ask, *, times=6):
    """Wait until it leads there each time: it may have to find out first that a replica is down."""
    in_a_row = 0
    async with asyncio.timeout(30):
        while in_a_row < times:
            try:
                status, _, _ = await ask(f"{CHALLENGES}/is-this-certvoy")
            except aiohttp.ClientError:
                status = None
            in_a_row = in_a_row + 1 if status == 404 else 0
            if status != 404:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_ca_finds_certvoy_behind_it_and_everybody_else_is_redirected(
    program, tmp_path, ca, replicas, example
):
    tokens = Tokens()
    async with responding(tokens, port=replicas[0]), asking(ca.http_port) as ask:
        running = await PROGRAMS[program](tmp_path, ca.http_port, example)
        try:
            await until_it_serves(ask)
            unknown = await ask(f"{CHALLENGES}/is-this-certvoy")
            other = await ask("/a?b=c")
            key = keys.generate(KeyType.ECDSA_P256)
            async with Client(ca.directory_url, account_key=key, ca_file=ca.ca_file) as client:
                await client.register(terms_agreed=True)
                got = await Orderer(client, [NAME], tokens).obtain(MemoryJournal())
        finally:
            await running.stop()

    assert (404, None, b"") == unknown
    assert f"https://{NAME}/a?b=c" == other[1]
    assert other[0] in {301, 308}
    assert (NAME,) == got.names
