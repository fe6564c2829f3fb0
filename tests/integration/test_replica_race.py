"""Five replicas, ten Rotations: three freeze in the middle of one, and wake up when their Leases are over."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.race import FROZEN, SECRETS, race
from tests.chaos.stories import Ca


@pytest.fixture
def ca() -> Iterator[Ca]:
    with tempfile.TemporaryDirectory(prefix="certvoy-ca-") as directory:
        ca = asyncio.run(Ca.start(Path(directory)))
        yield ca
        asyncio.run(ca.caddy.stop())


@pytest.mark.timeout(900)
async def test_one_order_a_name_set_and_a_replica_that_was_replaced_cannot_write(ca, connect, tmp_path):
    result = await race(1, tmp_path, connect, ca)

    assert [] == result.violations
    assert (SECRETS, FROZEN) == (result.orders, result.stale)
