"""Fixtures of the lifecycle's tests."""

from pathlib import Path

import pytest
from aiohttp import web

from sds_server.inventory.database import Database
from tests.support.issuances import Issuances


@pytest.fixture
async def issuances(database: Database, tmp_path: Path) -> Issuances:
    return await Issuances.open(database, tmp_path)


@pytest.fixture
async def admin():
    """An Envoy's admin interface whose /certs says what the test wants: contexts' CAs, or leaves' serials."""
    contexts = []

    async def certs(_request):
        entries = [
            {"cert_chain": [{"serial_number": f"{context:x}"}]}
            if isinstance(context, int)
            else {"ca_cert": [{"serial_number": f"{ca.certificate.serial_number:x}"} for ca in context]}
            for context in contexts
        ]
        return web.json_response({"certificates": entries})

    app = web.Application()
    app.router.add_get("/certs", certs)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield "{}:{}".format(*runner.addresses[0][:2]), contexts
    await runner.cleanup()
