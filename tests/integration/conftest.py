"""A CA that several files ask, and a door before it."""

import asyncio

import pytest

from tests.support import pebble as pebbles
from tests.support.ca_front import CaFront


@pytest.fixture(scope="module")
def pebble(tmp_path_factory):
    running = pebbles.start(tmp_path_factory.mktemp("pebble"), kind=True)
    yield running
    asyncio.run(running.stop())


@pytest.fixture
async def front(pebble, tmp_path):
    front = CaFront(tmp_path, upstream=pebble.directory_url, upstream_ca=pebble.ca_file)
    await front.open()
    yield front
    await front.shut()
