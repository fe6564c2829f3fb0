"""Fixtures of the API's tests."""

import pytest

from sds_server.limits import Refusal
from tests.support.admin import serving
from tests.support.issuances import Issuances


@pytest.fixture
async def api(database, tmp_path):
    more = {
        "issuers": ["internal", "wild", "short"],
        "over_dns": frozenset({"wild"}),
        "refuses": lambda issuer, _names: Refusal("too many", "make two") if issuer == "short" else None,
    }
    async with serving(database, tmp_path, declared=["declared"], **more) as running:
        yield running


@pytest.fixture
async def issuances(database, tmp_path):
    return await Issuances.open(database, tmp_path)
