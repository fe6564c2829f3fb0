"""Prometheus' own judge of rules and expositions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian


@pytest.fixture(scope="session")
def promtool() -> Iterator[Path]:
    """The program, of Debian's package `prometheus`."""
    try:
        yield debian.program("promtool", of="prometheus")
    except debian.Unavailable as e:
        pytest.skip(str(e))
