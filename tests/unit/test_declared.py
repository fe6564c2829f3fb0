"""What the configuration declares, put into the inventory at each start."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from sds_server.config.certvoy_yaml import load
from sds_server.declared import declare
from sds_server.inventory import declarations
from sds_server.model import UPLOAD
from tests.support.issuances import Issuances


@pytest.fixture
async def issuances(database, tmp_path):
    return await Issuances.open(database, tmp_path)


async def test_a_ca_that_secrets_want_and_that_is_not_declared_is_told_at_the_start(issuances, tmp_path):
    """Else nobody hears of it before the first renewal, weeks later."""
    wants = await issuances.declare()
    for name, issuer, fallback in (("a", "gone", ()), ("b", "ca", ("gone",)), ("c", UPLOAD, ())):
        wish = replace(wants, name=name, issuer=issuer, fallback=fallback)
        await declarations.put(issuances.database, wish, actor="person:test")
    (tmp_path / "certvoy.yaml").write_text(
        "database: embedded\nissuers: {ca: {directory: https://ca.example/dir, terms_agreed: true}}\n"
        "http01: {listen: 'off'}\nsds: {listen: '127.0.0.1:0'}\n"
    )
    with capture_logs() as logs:
        await declare(load(tmp_path / "certvoy.yaml"), issuances.database, None)

    told = [(log["issuer"], log["secrets"]) for log in logs if log["event"] == "issuer.undeclared"]
    assert [("gone", 2), (wants.issuer, 1)] == told
