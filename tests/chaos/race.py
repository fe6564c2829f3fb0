"""Replicas that race for the same Rotations, and freeze at a named point for longer than their Lease.

The database's clock is turned beyond their Leases, others do all the work, and then the frozen wake up:
whatever they write must change nothing.
"""

import asyncio
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from acme_engine.http01 import Http01Responder
from sds_server.inventory.database import open_database
from sds_server.inventory.schema import migrate
from sds_server.inventory.tokens import Tokens
from sds_server.programs.postgres import EmbeddedPostgres
from tests.chaos.checker import Checker
from tests.chaos.stories import Ca
from tests.chaos.targets import HOST
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.databases import empty_database, turn_clock

REPLICAS = 5
FROZEN = 3
SECRETS = 10
FREEZING = [
    # Where the holder of a Lease is about to write: each of them holds a stale one when it wakes up.
    "rotation.claimed",
    "key.sealed",
    "order.planned",
    "order.saved",
    "challenge.answered",
    "finalize.saved",
    "finalize.answered",
    "issued.saved",
    "chain.downloaded",
    "certificate.checked",
]
"""Not `order.answered`: an order that the CA has and nobody has saved is lost, and bought again."""

ENDED_S = 300.0
TWICE = (
    "SELECT count(*) - count(DISTINCT (cert_id, action)) FROM certaudit WHERE action = 'certificate.issued'"
)


@dataclass(frozen=True)
class Race:
    """What came of it."""

    frozen_at: Sequence[str]
    orders: int
    finalized: int
    stale: int
    """How often a replica that had been frozen was told that its Lease is over."""

    violations: Sequence[str]


async def race(seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca) -> Race:
    """Freeze some in the middle of an order each, let the others race for all, and wake the frozen."""
    before = len(ca.requests())
    points = Random(seed).sample(FREEZING, FROZEN)
    secrets = {f"s{n}": {"domains": [f"s{n}.example.test"], "issuer": "internal"} for n in range(SECRETS)}
    planes: list[ControlPlane] = []
    for number in range(REPLICAS):
        home = directory / f"replica-{number}"
        home.mkdir()
        plane = ControlPlane(home, database=dsn(connect))
        plane.issuer(ca.caddy.directory_url, ca.caddy.ca_file)
        # Whoever freezes has one Rotation to work on, and no other order that it may lose.
        mine = {f"s{number}": secrets[f"s{number}"]} if number < FROZEN else secrets
        plane.settings |= {
            "replica": home.name,
            "kms": {"key_file": str(directory / "kek")},
            "secrets": mine,
            "rotation": plane.settings["rotation"] | {"lease": "1h"},
        }
        planes.append(plane)
    frozen, racing = planes[:FROZEN], planes[FROZEN:]
    database = await open_database(connect, size=2)
    await migrate(database)
    responder = Http01Responder(Tokens(database), host=HOST, port=ca.http01_port)
    await responder.start()
    sql = await asyncpg.connect(**connect)
    try:
        for plane, point in zip(frozen, points, strict=True):
            await _freeze(plane, point)
        await turn_clock(sql, timedelta(hours=2))
        await asyncio.gather(*(plane.start() for plane in racing))

        async def ended() -> bool:
            done = "SELECT count(*) FROM certrotation WHERE outcome = 'completed_unobserved'"
            return bool(await sql.fetchval(done) == SECRETS)

        await until(ended, timeout_s=ENDED_S)
        counted = await _count(sql)
        for plane in frozen:
            await _wake(plane)
        found = [] if await _count(sql) == counted else ["a stale replica has written"]
        found += await _judge(sql, connect)
    finally:
        for plane in planes:
            if plane.child is not None:
                plane.child.kill()
        await responder.stop()
        await database.close()
        await sql.close()
    requests = ca.requests()[before:]
    return Race(
        frozen_at=points,
        orders=sum(uri.endswith("/new-order") for uri in requests),
        finalized=sum(uri.endswith("/finalize") for uri in requests),
        stale=sum("lease.lost" in plane.log() for plane in frozen),
        violations=found,
    )


async def _freeze(plane: ControlPlane, point: str) -> None:
    """Start a replica that stops itself at a point, and wait until it has."""
    child = plane.launch(env={"CERTVOY_CRASHPOINT": point, "CERTVOY_CRASHPOINT_SIGNAL": "SIGSTOP"})

    async def stopped() -> bool:
        assert child.running, child.log_tail()
        return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    await until(stopped)


async def _wake(plane: ControlPlane) -> None:
    """Let it go on, and wait until it was told that it is too late."""
    assert plane.child is not None
    plane.child.send_signal(signal.SIGCONT)

    async def told() -> bool:
        return "lease.lost" in plane.log()

    await until(told)


async def _count(sql: Any) -> Sequence[int]:
    """Count what a worker writes."""
    tables = ("certificate", "key_material", "certrotation", "acme_order")
    counts = [await sql.fetchval(f"SELECT count(*) FROM {table}") for table in tables]
    written = "SELECT count(*) FROM certaudit WHERE action LIKE 'order.%' OR action LIKE 'certificate.%'"
    return [*counts, await sql.fetchval(written)]


async def _judge(sql: Any, connect: Mapping[str, Any]) -> list[str]:
    checker = Checker(connect)
    try:
        found = [
            violation
            for number in range(SECRETS)
            for violation in await checker.violations(f"s{number}", [], since=0.0)
        ]
    finally:
        await checker.close()
    for what, query, expected in (
        ("active certificates", "SELECT count(*) FROM certificate WHERE status = 'active'", SECRETS),
        ("certificates", "SELECT count(*) FROM certificate", SECRETS),
        ("keys lost", "SELECT count(*) FROM key_material WHERE dek_wrapped IS NULL", 0),
        ("accounts", "SELECT count(*) FROM acme_account", 1),
        ("issued twice", TWICE, 0),
    ):
        if (counted := await sql.fetchval(query)) != expected:
            found.append(f"{what}: {counted}, not {expected}")
    return found


async def races(seeds: int) -> list[str]:
    """Race with so many seeds, on a database each; returns what was broken."""
    found = []
    with tempfile.TemporaryDirectory(prefix="certvoy-races-") as name:
        directory = Path(name)
        postgres = EmbeddedPostgres(directory / "pg", durable=False)
        await postgres.start()
        (directory / "ca").mkdir()
        ca = await Ca.start(directory / "ca")
        try:
            for seed in range(seeds):
                home = directory / f"race-{seed}"
                home.mkdir()
                async with empty_database(postgres.connect) as connect:
                    result = await race(seed, home, connect, ca)
                print(f"race, seed {seed}: {result}", flush=True)
                found += [f"race, seed {seed}: {violation}" for violation in result.violations]
                if (result.orders, result.stale) != (SECRETS, FROZEN):
                    found.append(f"race, seed {seed}: {result.orders} orders, {result.stale} stale replicas")
        finally:
            await ca.caddy.stop()
            postgres.kill()
    return found
