"""SIGKILL at named points, a last start, and what must be true then: nothing lost, nothing bought twice.

Each point belongs to a story that comes by it. In one story the process dies at several points, one after the
other: `chains` groups those that can follow each other. A seed varies a story: how many Secrets, which visit.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import asyncpg

from sds_server.crashpoint import POINTS
from sds_server.demo.sabotage import Flaw, store_broken_pair
from sds_server.errors import CertvoyError
from sds_server.inventory.database import open_database
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.programs.postgres import EmbeddedPostgres
from tests.chaos.checker import Checker
from tests.chaos.clients import Clients
from tests.chaos.impostors import Conduct, XdsImpostor
from tests.chaos.targets import HOST, Target
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.databases import empty_database

NAMES = list(POINTS)
FIRST_DELIVERY, FIRST_CANARY, FIRST_REJECTION = "pair.loaded", "canaries.asking", "certificate.refusing"
REFUSED, RESUMED, AUDITED = "secret.refused", "order.resumed", "audit.appended"
URL_LOST = {"order.answered", AUDITED}
"""The CA may have an order that we know nothing of: one, for each order that was under way."""

ONCE = {"account.begun", "account.answered", "account.ready"}
"""Visited by whoever comes first, and by nobody else."""

BREAKS = {
    "order.created",
    FIRST_DELIVERY,
    REFUSED,
    "deliveries.writing",
    "targets.looked",
    FIRST_CANARY,
    FIRST_REJECTION,
    AUDITED,
}
"""What cannot follow the point before: an order that is saved is resumed, what is proved stays proved."""

CHAIN_MAX = 5

SECRETS_MAX = 3
FLEET, FLEET_MAX = 2, 5
"""Targets of a staged roll-out: one has no canaries, and from four on two are asked at once."""

AUDITS = 10  # a first issuance writes more entries than that
DEATH_S = 120.0
SIGKILLED = -9


def chains() -> list[tuple[str, ...]]:
    """Return every point once, in groups of those at which one Rotation can die in turn."""
    groups: list[list[str]] = []
    for name in NAMES:
        if not groups or name in BREAKS or len(groups[-1]) == CHAIN_MAX:
            groups.append([])
        groups[-1].append(name)
    return [tuple(group) for group in groups]


class Ca:
    """A CA and the one responder port that its validator comes to; serves any number of stories in turn."""

    def __init__(self, caddy: Caddy, http01_port: int) -> None:
        self.caddy = caddy
        self.http01_port = http01_port

    @classmethod
    async def start(cls, directory: Path) -> "Ca":
        """Start it."""
        port = free_port()
        return cls(await Caddy.start(directory, responder=f"{HOST}:{port}"), port)

    def requests(self) -> list[str]:
        """The paths that were POSTed and answered with success, oldest first."""
        entries = map(json.loads, self.caddy.access_log.read_text().splitlines())
        return [
            entry["request"]["uri"]
            for entry in entries
            if entry["request"]["method"] == "POST" and entry["status"] < 400
        ]


class Story:
    """One control plane that dies at each of these points, and comes back."""

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        self._points, self._ca, self._connect, self._directory = points, ca, connect, directory
        rng = Random(f"{seed} {points}")
        place = NAMES.index(points[0])
        self._delivers = NAMES.index(FIRST_DELIVERY) <= place < NAMES.index(AUDITED)
        self._rejects = NAMES.index(FIRST_REJECTION) <= place < NAMES.index(AUDITED)
        self._refused = REFUSED in points
        self._staged = FIRST_CANARY in points
        # The first seed is the plain story, the others are variations.
        secrets = rng.randint(1, SECRETS_MAX) if seed and not self._delivers else 1
        self._nth = rng.randint(1, secrets)
        if seed and AUDITED in points:
            self._nth = rng.randint(1, AUDITS)
        if ONCE & set(points):
            self._nth = 1
        self._secrets = {f"s{number}": (f"s{number}.example.test",) for number in range(secrets)}
        self._plane = ControlPlane(directory, database=dsn(connect), http01_port=ca.http01_port)
        self._plane.issuer(ca.caddy.directory_url, ca.caddy.ca_file, roots_file=str(ca.caddy.ca_file))
        fleet = (rng.randint(FLEET, FLEET_MAX) if seed else FLEET) if self._staged else 1
        self._impostors = [self._enlist(f"impostor-{number}") for number in range(fleet)]
        self._plane.settings |= {
            "secrets": {
                name: {"domains": list(domains), "issuer": "internal"}
                for name, domains in self._secrets.items()
            },
            "grants": [{"identity": impostor.identity, "names": ["s0"]} for impostor in self._impostors],
        }
        if self._delivers:
            self._plane.settings["rotation"]["settle"] = "1h"
        if self._refused:
            self._impostors[0].conduct = Conduct.REFUSE

    def _enlist(self, name: str) -> XdsImpostor:
        target = Target(name, "s0", self._secrets["s0"], free_port())
        return XdsImpostor(target, self._directory / name, self._plane.clients, [self._plane.sds_port])

    async def tell(self) -> None:
        """Run it.

        Raises:
            AssertionError, TimeoutError: a promise was broken.
        """
        before = len(self._ca.requests())
        self._sql = await asyncpg.connect(**self._connect)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._sql.close)
            stack.push_async_callback(self._end)
            if self._points[0] == RESUMED:
                await self._die("order.saved")
            for number, point in enumerate(self._points):
                await self._die(f"{point}:{1 if number else self._nth}")
            await self._plane.start()
            await until(self._well)
            found = await self._judge()
        assert [] == found, found
        self._count(self._ca.requests()[before:])

    async def _end(self) -> None:
        for impostor in self._impostors:
            await impostor.stop()
        if self._plane.child is not None:
            await self._plane.stop()

    async def _die(self, armed: str) -> None:
        victim = self._plane.launch(env={"CERTVOY_CRASHPOINT": armed})
        async with asyncio.timeout(DEATH_S), asyncio.TaskGroup() as group:
            dying = group.create_task(victim.wait())
            group.create_task(self._push(dying))
        code = dying.result()
        assert code == SIGKILLED, f"{armed}: ended with {code}\n{victim.log_tail()}"

    async def _push(self, dying: "asyncio.Task[int]") -> None:
        """Bring the process to the point, where starting it is not enough."""
        if not self._delivers:
            return

        async def registered() -> bool:
            return dying.done() or all([await self._register(impostor) for impostor in self._impostors])

        async def stored() -> bool:
            return dying.done() or bool(await self._fetch("SELECT count(*) FROM certificate"))

        async def completed() -> bool:
            return dying.done() or await self._completed() >= 1

        async def rotating() -> bool:
            if dying.done() or await self._fetch("SELECT count(*) FROM certrotation") > 1:
                return True  # asked again it would be taken from its canaries, for another one
            await self._ask("POST", "/v1/secrets/s0/rotations", {})
            return False

        await until(stored)  # or what dies of a delivery might die in the middle of an order
        await until(registered)
        for impostor in self._impostors:
            if not impostor.started:
                await impostor.start()
        if self._staged:
            await until(completed)
            await until(rotating)
        if self._rejects:
            await until(completed)
            if await self._fetch("SELECT count(*) FROM certificate") > 1:
                return
            database = await open_database(self._connect, size=1)
            try:
                await store_broken_pair(database, "s0", Flaw.KEY)
            finally:
                await database.close()

    async def _register(self, impostor: XdsImpostor) -> bool:
        target = impostor.target
        body = {
            "probe": f"{HOST}:{target.port}",
            "identity": impostor.identity,
            "node_id": target.name,
            "secrets": [target.secret],
        }
        return await self._ask("PUT", f"/v1/targets/{target.name}", body)

    async def _completed(self) -> int:
        return int(await self._fetch("SELECT count(*) FROM certrotation WHERE outcome = 'completed'"))

    async def _well(self) -> bool:
        """Whether every Rotation has ended, with whatever an operator would do about a refusal."""
        if self._refused and self._impostors[0].conduct is Conduct.REFUSE:
            if not await self._fetch("SELECT count(*) FROM refused_content"):
                return False
            self._impostors[0].heal()
            return not await self._ask("POST", "/v1/secrets/s0/rotations", {})  # the answer is a new order
        if self._rejects:
            waits = "completed_at IS NULL AND new_cert_id IS NULL AND leased_until IS NULL"
            if await self._fetch(
                f"SELECT count(*) FROM certrotation WHERE {waits} AND last_error IS NOT NULL"
            ):
                await self._ask("POST", "/v1/secrets/s0/rotations", {})
                return False
        ended = "SELECT bool_and(completed_at IS NOT NULL) AND count(*) >= $1 FROM certrotation"
        return bool(await self._sql.fetchval(ended, len(self._secrets)))

    async def _judge(self) -> list[str]:
        checker = Checker(self._connect)
        try:
            found = [
                violation
                for name in self._secrets
                for violation in await checker.violations(name, [], since=0.0)
            ]
        finally:
            await checker.close()
        outcomes = {row["outcome"] for row in await self._sql.fetch("SELECT outcome FROM certrotation")}
        wanted = {"completed"} if self._delivers else {"completed_unobserved"}
        if outcomes - ({"superseded"} if self._refused else set()) != wanted:
            found.append(f"the rotations ended as {outcomes}")
        for what, query, expected in (
            ("active", "SELECT count(*) FROM certificate WHERE status = 'active'", len(self._secrets)),
            ("tokens left", "SELECT count(*) FROM challenge_token", 0),
            ("accounts", "SELECT count(*) FROM acme_account", 1),
            ("unfinished orders", "SELECT count(*) FROM acme_order WHERE state <> 'stored'", 0),
            ("keys lost", "SELECT count(*) FROM key_material WHERE dek_wrapped IS NULL", 0),
        ):
            if (counted := await self._fetch(query)) != expected:
                found.append(f"{what}: {counted}, not {expected}")
        if self._staged:
            found += await self._stages()
        return found

    async def _stages(self) -> list[str]:
        """The second Certificate went to its canaries first and then to all, once, and all serve it."""
        steps = "SELECT action FROM certaudit WHERE action = ANY ($1) ORDER BY id"
        wanted = ["rotation.canaries", "rotation.fanned_out", "rotation.completed"]
        told = [row["action"] for row in await self._sql.fetch(steps, wanted)]
        found = [] if told == ["rotation.completed", *wanted] else [f"the stages were {told}"]
        leaf = await self._fetch("SELECT fingerprint FROM certificate WHERE status = 'active'")
        targets = [impostor.target for impostor in self._impostors]
        clients = Clients(self._ca.caddy.ca_file, targets)
        for target in targets:
            await clients.look(target)
            if target.seen_since(0.0) != {leaf}:
                found.append(f"{target.name} does not serve the second certificate")
        return found

    def _count(self, requests: list[str]) -> None:
        """What the CA was asked for: one order and one certificate a Rotation, and no more."""
        bought = len(self._secrets) + (self._staged or self._rejects or self._refused)
        orders = sum(uri.endswith("/new-order") for uri in requests)
        finalized = sum(uri.endswith("/finalize") for uri in requests)
        # At each death, each other order may have been between the CA's answer and its commit.
        several = len(self._secrets) > 1
        spare = len(self._secrets) * len(self._points) if several else len(URL_LOST & set(self._points))
        assert bought <= orders <= bought + spare, f"{orders} orders for {bought} certificates"
        assert finalized == bought, f"{finalized} times finalized for {bought} certificates"

    async def _fetch(self, query: str) -> Any:
        """Return one value; None where the tables are still to be made."""
        try:
            return await self._sql.fetchval(query)
        except asyncpg.UndefinedTableError:
            return None

    async def _ask(self, method: str, path: str, body: object) -> bool:
        """Ask the admin API; say whether it took it."""
        connector = aiohttp.UnixConnector(str(self._directory / "state" / "admin.sock"))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as http,
                http.request(method, f"http://certvoy{path}", json=body) as response,
            ):
                return response.status < 300
        except (aiohttp.ClientError, TimeoutError):
            return False


async def kill(seeds: int) -> list[str]:
    """Tell every story with so many seeds, on a database each; returns what was broken."""
    found = []
    with tempfile.TemporaryDirectory(prefix="certvoy-kills-") as name:
        directory = Path(name)
        postgres = EmbeddedPostgres(directory / "pg", durable=False)
        await postgres.start()
        (directory / "ca").mkdir()
        ca = await Ca.start(directory / "ca")
        try:
            for number, (seed, points) in enumerate(product(range(seeds), chains())):
                what = f"seed {seed}, killed at {' '.join(points)}"
                home = directory / f"story-{number}"
                home.mkdir()
                async with empty_database(postgres.connect) as connect:
                    try:
                        await Story(points, seed, home, connect, ca).tell()
                    except (AssertionError, TimeoutError, CertvoyError, ExceptionGroup) as e:
                        found.append(f"{what}: {e!r}")
                print(what, *(violation for violation in found if violation.startswith(what)), flush=True)
        finally:
            await ca.caddy.stop()
            postgres.kill()
    return found
