"""SIGKILL between any two steps from key to stored certificate: nothing is lost, nothing is bought twice."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until

BEFORE_THE_ORDER_IS_KNOWN = [
    "rotation.claimed",
    "key.generated",
    "key.sealed",
    "order.planned",
    "account.ready",
]
ORDER_URL_LOST = ["order.answered"]
RESUMED = [
    "order.saved",
    "order.created",
    "challenge.presented",
    "challenge.answered",
    "authorization.valid",
    "finalize.saved",
    "finalize.answered",
    "issued.saved",
    "certificate.downloaded",
    "chain.downloaded",
    "certificate.checked",
    "certificate.stored",
]


class Ca:
    """A CA and the one responder port that its validator comes to."""

    def __init__(self, directory: Path) -> None:
        self.http01_port = free_port()
        self.caddy = asyncio.run(Caddy.start(directory, responder=f"{HOST}:{self.http01_port}"))

    def requests(self) -> list[str]:
        """The paths that were POSTed and answered with success, oldest first."""
        entries = map(json.loads, self.caddy.access_log.read_text().splitlines())
        return [
            entry["request"]["uri"]
            for entry in entries
            if entry["request"]["method"] == "POST" and entry["status"] < 400
        ]


@pytest.fixture(scope="module")
def ca() -> Iterator[Ca]:
    with tempfile.TemporaryDirectory(prefix="certvoy-ca-") as directory:
        ca = Ca(Path(directory))
        yield ca
        asyncio.run(ca.caddy.stop())


@pytest.mark.parametrize("point", BEFORE_THE_ORDER_IS_KNOWN + ORDER_URL_LOST + RESUMED)
async def test_killed_here_the_rotation_ends_with_one_certificate(point, ca, connect, sql, tmp_path):
    before = ca.requests()
    control_plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=ca.http01_port)
    control_plane.issuer(ca.caddy.directory_url, ca.caddy.ca_file, roots_file=str(ca.caddy.ca_file))
    victim = control_plane.launch(env={"CERTVOY_CRASHPOINT": point})
    async with asyncio.timeout(60):
        code = await victim.wait()
    assert -9 == code, control_plane.log()

    await control_plane.start()

    async def completed() -> bool:
        return await sql.fetchval("SELECT bool_and(outcome = 'completed_unobserved') FROM certrotation")

    try:
        await until(completed)
    finally:
        await control_plane.stop()
    requests = ca.requests()[len(before) :]

    assert 1 == await sql.fetchval("SELECT count(*) FROM certificate")
    assert 1 == sum(uri.endswith("/finalize") for uri in requests)
    orders = sum(uri.endswith("/new-order") for uri in requests)
    assert (2 if point in ORDER_URL_LOST else 1) == orders
    assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_token")
    assert 1 == await sql.fetchval("SELECT count(*) FROM acme_account")
    assert ["stored"] == [row["state"] for row in await sql.fetch("SELECT state FROM acme_order")]
