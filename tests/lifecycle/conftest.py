"""Fixtures of the lifecycle's tests."""

from pathlib import Path

import pytest

from sds_server.inventory.database import Database
from tests.support.issuances import Issuances


@pytest.fixture
async def issuances(database: Database, tmp_path: Path) -> Issuances:
    return await Issuances.open(database, tmp_path)
