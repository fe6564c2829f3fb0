"""SIGKILL between any two steps from key to proof: nothing is lost, nothing is bought twice."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds_server.crashpoint import POINTS
from tests.chaos.kills import BREAKS, chains, story
from tests.chaos.stories import Ca
from tests.support.debian import Unavailable as NotHere


@pytest.fixture(scope="module")
def ca() -> Iterator[Ca]:
    with tempfile.TemporaryDirectory(prefix="certvoy-ca-") as directory:
        ca = asyncio.run(Ca.start(Path(directory)))
        yield ca
        asyncio.run(ca.caddy.stop())


def test_every_point_is_in_one_story():
    assert list(POINTS) == [point for chain in chains() for point in chain]
    assert BREAKS <= set(POINTS), "a point that is gone begins no group"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("points", chains(), ids=" ".join)
async def test_killed_here_everything_ends_as_if_nothing_had_happened(points, ca, connect, tmp_path):
    try:
        await story(points, 0, tmp_path, connect, ca).tell()
    except NotHere as e:
        pytest.skip(str(e))
