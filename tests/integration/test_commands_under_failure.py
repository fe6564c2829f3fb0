"""Any two of "replica killed", "database restarted", "CA stopped" happen while each command runs.

The command says the truth, by its exit code and in words, and can be repeated when all is well again.
"""

import asyncio
import itertools
import os
import random
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.programs.postgres import EmbeddedPostgres
from tests.support.control_plane import HOST, ControlPlane, dsn

SEEDS = range(int(os.environ.get("CERTVOY_SEEDS", "1")))
FAILURES = ("replica", "database", "ca")

DONE, FAILED, USAGE, NOT_FOUND, TIMED_OUT = 0, 1, 2, 3, 5

ISSUED = "SELECT count(*) > 0 FROM certificate WHERE secret = $1"
ROTATED = "SELECT count(*) > 1 FROM certificate WHERE secret = $1"
OPENED = "SELECT count(*) > 1 FROM certrotation WHERE secret = $1"
WANTED = """
    SELECT count(*) > 0 FROM revocation r JOIN certificate c ON c.id = r.cert_id WHERE c.secret = $1
"""
DECLARED = "SELECT count(*) > 0 FROM secret WHERE name = $1 AND deleted_at IS NULL"
DELETED = "SELECT count(*) = 0 FROM secret WHERE name = $1 AND deleted_at IS NULL"
FROZEN = "SELECT count(*) > 0 FROM secret WHERE name = $1 AND frozen_at IS NOT NULL"
RESUMED = "SELECT count(*) > 0 FROM secret WHERE name = $1 AND frozen_at IS NULL"
REGISTERED = "SELECT count(*) > 0 FROM target WHERE name = $1"
REMOVED = "SELECT count(*) = 0 FROM target WHERE name = $1"
MADE = "SELECT count(*) > 0 FROM api_token WHERE name = $1"
REVOKED = "SELECT bool_and(revoked_at IS NOT NULL) FROM api_token WHERE name = $1"
INVITED = "SELECT count(*) > 0 FROM proxy WHERE name = $1"
DISMISSED = "SELECT count(*) = 0 FROM proxy WHERE name = $1"


@dataclass(frozen=True)
class Case:
    """A command; ``{x}`` in it is a name of its own.

    ``before`` prepares it. ``finds`` is what it answers when all is well. ``holds`` is the query that is true
    once the command has done what it says; None: it only reads, and what it prints contains its name.
    ``ca``: it waits for the CA. ``again`` is what a repetition may answer besides ``finds``.
    """

    command: str
    before: Sequence[str] = ()
    holds: str | None = None
    ca: bool = False
    finds: int = DONE
    again: int = DONE


ISSUE = "issue {x} --domain {x}.example.test"
CASES = (
    Case(ISSUE + " --wait --timeout {t}", holds=ISSUED, ca=True),
    Case(ISSUE, holds=DECLARED),
    Case("rotate {x} --wait --timeout {t}", [f"{ISSUE} --wait"], holds=ROTATED, ca=True),
    Case("rotate {x}", [f"{ISSUE} --wait"], holds=OPENED),
    Case("revoke {x}", [f"{ISSUE} --wait"], holds=WANTED, again=FAILED),
    Case("freeze {x} --reason trial", [ISSUE], holds=FROZEN),
    Case("resume {x}", [ISSUE, "freeze {x} --reason trial"], holds=RESUMED, again=FAILED),
    Case("delete {x}", [ISSUE], holds=DELETED, again=NOT_FOUND),
    Case("targets add {x} --probe 127.0.0.1:1", holds=REGISTERED),
    Case("targets rm {x}", ["targets add {x} --probe 127.0.0.1:1"], holds=REMOVED, again=NOT_FOUND),
    Case("token create {x} --scope read", holds=MADE, again=FAILED),
    Case("token revoke {x}", ["token create {x} --scope read"], holds=REVOKED, again=NOT_FOUND),
    Case("proxies enroll {x} --secret {x}", holds=INVITED),
    Case("proxies rm {x}", ["proxies enroll {x} --secret {x}"], holds=DISMISSED, again=NOT_FOUND),
    Case("ls", [ISSUE]),
    Case("show {x}", [ISSUE]),
    Case("why {x}", [ISSUE]),
    Case("probe {x}", [f"{ISSUE} --wait", "targets add {x} --probe 127.0.0.1:1 --secret {x}"], finds=FAILED),
    Case("proxies", ["targets add {x} --probe 127.0.0.1:1"]),
    Case("targets ls", ["targets add {x} --probe 127.0.0.1:1"]),
    Case("token ls", ["token create {x} --scope read"]),
    Case("audit ls --limit 1000", ["targets add {x} --probe 127.0.0.1:1"]),
)


class World:
    """A CA, a PostgreSQL and a certvoy, each of its own, that can be hit and healed."""

    def __init__(self, directory):
        self.directory = directory
        self.postgres = EmbeddedPostgres(directory / "postgres", durable=False)
        self.http01_port = free_port()
        self.ca_port = free_port()
        (directory / "caddy").mkdir()

    async def start(self):
        await self.postgres.start()
        await self.start_ca()
        self.plane = ControlPlane(
            self.directory, database=dsn(self.postgres.connect), http01_port=self.http01_port
        )
        self.plane.issuer(self.ca.directory_url, self.ca.ca_file)
        await self.plane.start()

    async def start_ca(self):
        self.ca = await Caddy.start(
            self.directory / "caddy", responder=f"{HOST}:{self.http01_port}", port=self.ca_port
        )

    async def stop(self):
        await self.plane.stop()
        await self.ca.stop()
        await self.postgres.stop()

    async def hit(self, failure):
        """Let it happen; what restarts by itself in the real world does so here."""
        if failure == "ca":
            await self.ca.stop()
        elif failure == "database":
            await self.postgres.stop()
            await self.postgres.start()
        else:
            self.plane.child.kill()
            await self.plane.start()

    async def holds(self, query, name):
        """Look with our own eyes."""
        connection = await asyncpg.connect(**self.postgres.connect)
        try:
            return await connection.fetchval(query, name)
        finally:
            await connection.close()


@asynccontextmanager
async def world(directory):
    made = World(directory)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


def argv(command, name, patience="60s"):
    return command.format(x=name, t=patience).split()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("failures", list(itertools.combinations(FAILURES, 2)), ids="+".join)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_command_says_the_truth_and_can_be_repeated(failures, seed, tmp_path):
    rng = random.Random(f"{failures} {seed}")
    cases = {f"x{n}": case for n, case in enumerate(CASES)}
    async with world(tmp_path) as it:
        await asyncio.gather(*(prepare(it, name, case) for name, case in cases.items()))

        async def happen():
            for failure in rng.sample(failures, 2):
                await asyncio.sleep(rng.uniform(0.1, 0.6))
                await it.hit(failure)

        happening = asyncio.create_task(happen())
        patience = "15s" if "ca" in failures else "60s"
        results = await asyncio.gather(
            *(it.plane.command(*argv(case.command, name, patience)) for name, case in cases.items())
        )
        await happening
        for (name, case), (code, said) in zip(cases.items(), results, strict=True):
            await says_the_truth(it, name, case, code, said, ca_stopped="ca" in failures)

        if "ca" in failures:
            await it.start_ca()
        await asyncio.gather(*(repeat(it, name, case) for name, case in cases.items()))


async def prepare(it, name, case):
    for command in case.before:
        assert (DONE, command) == ((await it.plane.command(*argv(command, name)))[0], command)


async def repeat(it, name, case):
    code, said = await it.plane.command(*argv(case.command, name))
    assert code in {case.finds, case.again}, (case.command, said)
    if case.holds is not None:
        assert await it.holds(case.holds, name), (case.command, said)


async def says_the_truth(it, name, case, code, said, *, ca_stopped):
    told = (case.command, code, said)
    if code == case.finds and (case.holds or name in said):
        assert case.holds is None or await it.holds(case.holds, name), told
        return
    assert "hint: " in said, told
    assert "Traceback" not in said, told
    if code == TIMED_OUT:
        assert ca_stopped, told
        assert case.ca, told
        assert f"localhost:{it.ca_port}" in said, told
    else:
        assert code == FAILED, told
        # Nobody answered, or the answer was lost: it does not claim to know what it cannot know.
        assert "no certvoy answers" in said or "broke before the answer" in said or "database" in said, told
