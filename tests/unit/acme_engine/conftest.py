"""A CA that lies, and a client of it whose clock stands still and whose sleeps are kept."""

import random
from datetime import UTC, datetime

import pytest

from acme_engine import Client, KeyType, keys
from tests.support.fake_ca import fake_ca

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


class Slept(list):
    """The pauses that were asked for; none is taken."""

    async def __call__(self, pause_s):
        self.append(pause_s)


@pytest.fixture
async def ca():
    async with fake_ca() as running:
        yield running


@pytest.fixture
def slept():
    return Slept()


@pytest.fixture
async def client(ca, slept):
    """Registered, with the answers to that forgotten."""
    async with Client(
        ca.directory_url,
        account_key=keys.generate(KeyType.ECDSA_P256),
        account_url=f"{ca.url}/account/1",
        allow_http=True,
        sleep=slept,
        rng=random.Random(1),
    ) as it:
        yield it
