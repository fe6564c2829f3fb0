"""A staged roll-out on real Envoys and two replicas: who gets it first, and how fast it is taken back."""

import asyncio
import json
import time

import asyncpg
import pytest

from tests.chaos.clients import Clients
from tests.chaos.impostors import Conduct
from tests.chaos.stage import AGENT, XDS, Stage
from tests.support.control_plane import until
from tests.support.outage import SLOW_MACHINE_S

BACK_WITHIN_S = 5.0 + SLOW_MACHINE_S


@pytest.fixture
async def stage(tmp_path):
    stage = Stage(tmp_path)
    try:
        await stage.start()
        yield stage
    finally:
        await stage.stop()


@pytest.fixture
async def sql(stage):
    connection = await asyncpg.connect(**stage.postgres.connect)
    yield connection
    await connection.close()


async def ended(sql, rotations=1):
    """Every Rotation of www is complete, and there were so many."""

    async def holds():
        rows = await sql.fetch("SELECT outcome FROM certrotation WHERE secret = 'www'")
        return len(rows) == rotations and all(row["outcome"] == "completed" for row in rows)

    await until(holds)


async def steps(sql, action):
    """What the audit tells of www under this action, oldest first."""
    rows = await sql.fetch(
        "SELECT extract(epoch FROM timestamp)::float8 AS at, payload FROM certaudit"
        " WHERE subject = 'www' AND action = $1 ORDER BY id",
        action,
    )
    return [(row["at"], json.loads(row["payload"])) for row in rows]


@pytest.mark.timeout(600)
async def test_canaries_go_first_and_what_two_targets_refuse_is_taken_back_within_five_seconds(stage, sql):
    await ended(sql)
    async with Clients(stage.root, stage.targets.values()) as clients:
        # Canaries first, then all.
        await stage.admin("POST", "/v1/secrets/www/rotations", {})
        await ended(sql, 2)
        ((asked_at, canaries),) = await steps(sql, "rotation.canaries")
        ((fanned_out_at, _),) = await steps(sql, "rotation.fanned_out")
        good = await sql.fetchval(
            "SELECT fingerprint FROM certificate WHERE secret = 'www' AND status = 'active'"
        )

        # One refuses, one takes it and serves the one before: back by itself.
        stage.impostors[XDS].conduct = Conduct.REFUSE
        stage.impostors[AGENT].conduct = Conduct.DEAF
        await stage.admin("POST", "/v1/secrets/www/rotations", {})

        async def taken_back():
            return bool(await steps(sql, "rotation.rolled_back"))

        await until(taken_back)
        ((back_at, why),) = await steps(sql, "rotation.rolled_back")
        issued_at = (await steps(sql, "certificate.issued"))[-1][0]

        async def all_serve_the_one_before():
            now = time.time()
            await asyncio.sleep(0.2)
            return all(
                target.seen_since(now) == {good}
                for target in stage.targets.values()
                if target.secret == "www"
            )

        await until(all_serve_the_one_before)

        # Mended, the next one completes.
        for impostor in stage.impostors.values():
            impostor.heal()
        await stage.admin("POST", "/v1/secrets/www/rotations", {})
        await ended(sql, 3)
        assert [] == clients.failures

    print(f"taken back {back_at - issued_at:.2f} s after it was stored: {why['error']['what']}")
    assert 2 == len(canaries["targets"])
    assert asked_at < fanned_out_at
    assert back_at - issued_at < BACK_WITHIN_S
    assert ["active"] == [
        row["status"]
        for row in await sql.fetch(
            "SELECT status FROM certificate WHERE secret = 'www' AND status IN ('active', 'issued')"
        )
    ]
