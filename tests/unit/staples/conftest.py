from datetime import UTC, datetime

import pytest


@pytest.fixture
def now():
    return datetime.now(UTC)
