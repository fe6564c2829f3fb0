"""The Traefik installer, on a real Traefik."""

import os
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from sds_server.agent.installers import traefik as installers
from sds_server.agent.installers.installer import NotRunning, Rejected
from sds_server.agent.installers.traefik import Traefik, TraefikSettings
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from tests.support import traefik
from tests.support.control_plane import until
from tests.support.pairs import DOMAIN, Issuer, place, settings
from tests.support.traffic import Traffic


@pytest.fixture
def pairs(tmp_path):
    return tmp_path / "pairs"


@pytest.fixture
def issuer():
    return Issuer()


@pytest.fixture
async def proxy(tmp_path):
    proxy = traefik.Traefik(tmp_path)
    await proxy.start()
    yield proxy
    await proxy.stop()


def installer(file, **values):
    return Traefik(settings(TraefikSettings, file=file, **values))


async def served(proxy):
    try:
        return await served_fingerprint(proxy.address, DOMAIN)
    except ProbeFailed:
        return None


async def test_a_rotation_costs_no_connection(proxy, issuer, pairs):
    installs = installer(proxy.dynamic / "www.yml", api=proxy.api)
    first = issuer.next()
    await installs.load(first, place(pairs, first))

    async with Traffic(proxy.address, DOMAIN) as traffic:
        for _ in range(20):
            pair = issuer.next()
            at = place(pairs, pair)
            await installs.check(pair, at)
            await installs.load(pair, at)

            async def new_one(pair=pair):
                return pair.fingerprint == await served(proxy)

            await until(new_one)

    print(traffic)
    assert (0, 0, 0) == (traffic.failed, traffic.cut, traffic.broken), traffic.errors
    assert traffic.done > 20
    assert traffic.held > 20


async def test_the_file_is_its_owners_alone_and_nothing_is_left_beside_it(proxy, issuer, pairs):
    file = proxy.dynamic / "www.yml"
    left = proxy.dynamic / ".www.yml.0123456789abcdef.partial"
    left.write_text("of an agent that was killed")
    pair = issuer.next()

    await installer(file).load(pair, place(pairs, pair))

    assert 0o600 == file.stat().st_mode & 0o777
    assert {"route.yml", "www.yml"} == {path.name for path in proxy.dynamic.iterdir()}


async def test_what_traefik_has_not_taken_is_rejected(proxy, issuer, pairs):
    """Traefik says nothing of a pair that it cannot use: it is missing in what its API tells."""
    first, second = issuer.next(), issuer.next()
    mismatched = replace(second, key_pem=first.key_pem)  # the gate is before this

    with pytest.raises(Rejected, match="Traefik has not taken it"):
        await installer(proxy.dynamic / "www.yml", api=proxy.api, within="1s").load(
            mismatched, place(pairs, mismatched)
        )


async def test_a_pipe_in_its_place_stops_nothing(tmp_path, issuer, pairs):
    """Whoever may write there must not hold the agent up."""
    pipe = tmp_path / "www.yml"
    os.mkfifo(pipe)

    def write():
        with suppress(BrokenPipeError):  # who looks may not wait for all of it
            pipe.write_text(installers.MARK)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    pair = issuer.next()
    with pytest.raises(Rejected, match="somebody else wrote it"):
        await installer(pipe).check(pair, place(pairs, pair))


async def test_a_file_of_somebody_else_is_left_alone(proxy, issuer, pairs):
    pair = issuer.next()
    at = place(pairs, pair)
    theirs = (proxy.dynamic / "route.yml").read_text()

    for ask in (installer(proxy.dynamic / "route.yml").check, installer(proxy.dynamic / "route.yml").load):
        with pytest.raises(Rejected, match="somebody else wrote it"):
            await ask(pair, at)

    assert theirs == (proxy.dynamic / "route.yml").read_text()


async def test_a_link_that_somebody_planted_is_not_followed(proxy, issuer, pairs, tmp_path):
    pair = issuer.next()
    (tmp_path / "victim").write_text(installers.MARK)
    (proxy.dynamic / "www.yml").symlink_to(tmp_path / "victim")

    with pytest.raises(Rejected, match="symbolic link"):
        await installer(proxy.dynamic / "www.yml").load(pair, place(pairs, pair))

    assert installers.MARK == (tmp_path / "victim").read_text()


def test_a_file_that_traefik_would_not_read_is_an_error_of_the_configuration(tmp_path):
    with pytest.raises(ValidationError, match=r"must end in \.yml or \.yaml"):
        installer(tmp_path / "www.json")


async def test_a_traefik_that_does_not_run_reads_the_file_when_it_starts(issuer, pairs, tmp_path):
    proxy = traefik.Traefik(tmp_path)
    pair = issuer.next()
    with pytest.raises(NotRunning):
        await installer(proxy.dynamic / "www.yml", api=proxy.api).load(pair, place(pairs, pair))

    await proxy.start()
    try:

        async def new_one():
            return pair.fingerprint == await served(proxy)

        await until(new_one)
    finally:
        await proxy.stop()


async def test_an_api_that_does_not_tell_of_certificates_is_named(proxy, issuer, pairs):
    """Another server, or a Traefik before 3.7."""
    pair = issuer.next()

    async def nothing(_request):
        return web.Response(status=404, text="404 page not found")

    app = web.Application()
    app.router.add_get("/{path:.*}", nothing)
    async with TestServer(app) as other:
        with pytest.raises(Rejected, match="leave `api` out"):
            await installer(proxy.dynamic / "www.yml", api=f"http://127.0.0.1:{other.port}").load(
                pair, place(pairs, pair)
            )


async def test_who_may_read_the_key_may_read_the_file(proxy, issuer, pairs):
    pair = issuer.next()
    at = place(pairs, pair)
    at.key.chmod(0o640)

    await installer(proxy.dynamic / "www.yml").load(pair, at)

    assert 0o640 == (proxy.dynamic / "www.yml").stat().st_mode & 0o777
