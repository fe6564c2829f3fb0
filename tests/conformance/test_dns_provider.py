"""What every provider of DNS must do. A new one adds a bench to `BENCHES` and passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from acme_engine.dns.table import PROVIDERS, provider_of
from tests.support.bind import Bind, Zone
from tests.support.dns_memory import Bench, MemoryDns

LONG = "x" * 43
"""As long as a DNS-01 value: 32 bytes in base64url."""


@asynccontextmanager
async def memory(tmp_path) -> AsyncIterator[Bench]:
    dns = MemoryDns()

    async def look(name):
        return set(dns.values[name])

    yield Bench(dns, "example.test", look)


@asynccontextmanager
async def rfc2136(tmp_path) -> AsyncIterator[Bench]:
    bind = await Bind.start(tmp_path / "bind", [Zone("example.test")])
    try:
        yield Bench(provider_of("rfc2136", bind.settings), "example.test", bind.txt)
    finally:
        await bind.stop()


BENCHES = {
    "memory": memory,
    "rfc2136": rfc2136,
}

MARKS = {"rfc2136": pytest.mark.debian}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in sorted(BENCHES)])
async def bench(request, tmp_path):
    async with BENCHES[request.param](tmp_path) as made:
        yield made
        await made.provider.close()


def test_every_provider_is_here():
    assert {*PROVIDERS, "memory"} == set(BENCHES)


@pytest.fixture
def name(bench):
    return f"_acme-challenge.www.{bench.zone}"


async def test_a_value_that_was_added_is_served(bench, name):
    await bench.provider.add(name, LONG)

    assert {LONG} == await bench.look(name)


async def test_a_name_at_the_top_of_the_zone_can_be_changed(bench):
    await bench.provider.add(f"_acme-challenge.{bench.zone}", LONG)

    assert {LONG} == await bench.look(f"_acme-challenge.{bench.zone}")


async def test_a_value_that_is_added_twice_is_there_once(bench, name):
    await bench.provider.add(name, LONG)
    await bench.provider.add(name, LONG)

    assert {LONG} == await bench.look(name)

    await bench.provider.remove(name, LONG)

    assert set() == await bench.look(name)


async def test_two_values_stand_beside_each_other(bench, name):
    """example.com and *.example.com prove themselves at one name."""
    await bench.provider.add(name, "one")
    await bench.provider.add(name, "two")

    assert {"one", "two"} == await bench.look(name)


async def test_values_that_are_added_at_once_are_all_there(bench, name):
    values = {f"value-{n}" for n in range(8)}
    await asyncio.gather(*(bench.provider.add(name, value) for value in values))

    assert values == await bench.look(name)


async def test_a_value_is_removed_without_its_neighbours(bench, name):
    await bench.provider.add(name, "one")
    await bench.provider.add(name, "two")
    await bench.provider.remove(name, "one")

    assert {"two"} == await bench.look(name)


async def test_the_last_value_is_removed(bench, name):
    await bench.provider.add(name, LONG)
    await bench.provider.remove(name, LONG)

    assert set() == await bench.look(name)


async def test_what_is_not_there_can_be_removed(bench, name):
    await bench.provider.remove(name, LONG)
    await bench.provider.add(name, "other")
    await bench.provider.remove(name, LONG)

    assert {"other"} == await bench.look(name)


async def test_values_differ_by_case(bench, name):
    """Base64url is of both cases, so a comparison that ignores case would remove somebody else's value."""
    await bench.provider.add(name, "aBc")
    await bench.provider.add(name, "AbC")
    await bench.provider.remove(name, "aBc")

    assert {"AbC"} == await bench.look(name)
