"""What a control plane is about when it dies: one story for each stretch from key to proof.

Its process dies at several points, one after the other, and is started a last time. Then everything must be
as if nothing had happened: nothing lost, nothing bought twice. A seed varies it: how many Secrets, which
visit.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import aiohttp
import asyncpg

from sds_server.demo.sabotage import Flaw, store_broken_pair
from sds_server.inventory.database import open_database
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.chaos.checker import Checker
from tests.chaos.impostors import Conduct, XdsImpostor
from tests.chaos.targets import HOST, Target
from tests.support.control_plane import ControlPlane, dsn, until

RESUMED, AUDITED = "order.resumed", "audit.appended"
URL_LOST = {"order.answered", AUDITED}
"""The CA may have an order that we know nothing of: one, for each order that was under way."""

ONCE = {"account.begun", "account.answered", "account.ready"}
"""Visited by whoever comes first, and by nobody else."""

SECRETS_MAX = 3
AUDITS = 10  # a first issuance writes more entries than that
DEATH_S = 240.0
SIGKILLED = -9


class Ca:
    """A CA and the one responder port that its validator comes to; serves any number of stories in turn."""

    def __init__(self, caddy: Caddy, http01_port: int, dns_port: int) -> None:
        self.caddy = caddy
        self.http01_port = http01_port
        self.dns_port = dns_port
        """Where it asks for TXT records: a story that has some starts a server there."""

    @classmethod
    async def start(cls, directory: Path) -> "Ca":
        """Start it."""
        port, dns_port = free_port(), free_port()
        caddy = await Caddy.start(directory, responder=f"{HOST}:{port}", resolver=f"{HOST}:{dns_port}")
        return cls(caddy, port, dns_port)

    def requests(self) -> list[str]:
        """The paths that were POSTed and answered with success, oldest first."""
        entries = map(json.loads, self.caddy.access_log.read_text().splitlines())
        return [
            entry["request"]["uri"]
            for entry in entries
            if entry["request"]["method"] == "POST" and entry["status"] < 400
        ]


class Story:
    """The first issuance of a few Secrets, which nobody is registered for."""

    ends: ClassVar[set[str]] = {"completed_unobserved"}
    """How its Rotations end."""

    bought_besides: ClassVar[int] = 0
    """Certificates that it takes besides the first ones."""

    keys_destroyed: ClassVar[int] = 0

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        self._points, self._ca, self._connect, self._directory = points, ca, connect, directory
        self._rng = Random(f"{seed} {points}")
        # The first seed is the plain story, the others are variations.
        self._varied = seed > 0
        secrets, self._nth = self._vary()
        self._secrets = {f"s{number}": (f"s{number}.example.test",) for number in range(secrets)}
        self._plane = ControlPlane(directory, database=dsn(connect), http01_port=ca.http01_port)
        self._plane.issuer(ca.caddy.directory_url, ca.caddy.ca_file, roots_file=str(ca.caddy.ca_file))
        self._plane.settings["rotation"]["lease"] = "20s"
        self._plane.settings["secrets"] = {
            name: {"domains": list(domains), "issuer": "internal"} for name, domains in self._secrets.items()
        }

    async def tell(self) -> None:
        """Run it.

        Raises:
            AssertionError, TimeoutError: a promise was broken.
        """
        before = len(self._ca.requests())
        async with AsyncExitStack() as stack:
            await self._open(stack)
            if self._points[0] == RESUMED:
                await self._die("order.saved")
            for number, point in enumerate(self._points):
                await self._die(f"{point}:{1 if number else self._nth}")
            await self._plane.start()
            await until(self._well)
            found = await self._judge()
        assert [] == found, found
        self._count(self._ca.requests()[before:])

    # What differs from story to story

    def _vary(self) -> tuple[int, int]:
        """Return how many Secrets there are, and at which visit of its first point the process dies."""
        secrets = self._rng.randint(1, SECRETS_MAX) if self._varied else 1
        nth = self._rng.randint(1, secrets)
        if self._varied and AUDITED in self._points:
            nth = self._rng.randint(1, AUDITS)
        return secrets, 1 if ONCE & set(self._points) else nth

    async def _open(self, stack: AsyncExitStack) -> None:
        self._sql = await asyncpg.connect(**self._connect)
        stack.push_async_callback(self._sql.close)
        stack.push_async_callback(self._end)

    async def _push(self) -> None:
        """Bring the process to the point, where starting it is not enough."""

    async def _mended(self) -> bool:
        """Do what an operator would do about what went wrong; say whether nothing of it is left to do."""
        return True

    async def _judge(self) -> list[str]:
        checker = Checker(self._connect)
        try:
            found = [
                violation
                for name in self._secrets
                for violation in await checker.violations(name, self._watched(), since=0.0)
            ]
        finally:
            await checker.close()
        outcomes = {row["outcome"] for row in await self._sql.fetch("SELECT outcome FROM certrotation")}
        if outcomes != self.ends:
            found.append(f"the rotations ended as {outcomes}")
        for what, query, expected in (
            ("active", "SELECT count(*) FROM certificate WHERE status = 'active'", len(self._secrets)),
            ("tokens left", "SELECT count(*) FROM challenge_token", 0),
            ("values left", "SELECT count(*) FROM challenge_value", 0),
            ("accounts", "SELECT count(*) FROM acme_account", 1),
            ("unfinished orders", "SELECT count(*) FROM acme_order WHERE state <> 'stored'", 0),
            (
                "keys without their data key",
                "SELECT count(*) FROM key_material WHERE dek_wrapped IS NULL",
                self.keys_destroyed,
            ),
        ):
            if (counted := await self._fetch(query)) != expected:
                found.append(f"{what}: {counted}, not {expected}")
        return found

    def _watched(self) -> Sequence[Target]:
        """Return the Targets at which a client has looked the whole time."""
        return []

    # What all have

    async def _end(self) -> None:
        if self._plane.child is not None:
            await self._plane.stop()

    async def _die(self, armed: str) -> None:
        victim = self._plane.launch(env={"CERTVOY_CRASHPOINT": armed})
        try:
            async with asyncio.timeout(DEATH_S), asyncio.TaskGroup() as group:
                self._dying = group.create_task(victim.wait())
                group.create_task(self._push())
        except TimeoutError as e:
            raise AssertionError(f"{armed}: the story does not come by it\n{victim.log_tail()}") from e
        code = self._dying.result()
        assert code == SIGKILLED, f"{armed}: ended with {code}\n{victim.log_tail()}"
        # As when its lease has run out: a short one is lost by a busy machine as well.
        await self._fetch(
            "UPDATE certrotation SET leased_until = certvoy_now() WHERE leased_until IS NOT NULL"
        )

    async def _alive_until(self, holds: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until it holds; say whether the process still lives."""

        async def over() -> bool:
            return self._dying.done() or await holds()

        await until(over)
        return not self._dying.done()

    async def _well(self) -> bool:
        """Whether every Rotation has ended, with whatever an operator would do about a refusal."""
        if not await self._mended():
            return False
        ended = "SELECT bool_and(completed_at IS NOT NULL) AND count(*) >= $1 FROM certrotation"
        return bool(await self._sql.fetchval(ended, len(self._secrets)))

    async def _hastened(self) -> bool:
        """Have what waits for its next attempt tried at once; say whether nothing waits."""
        waits = "completed_at IS NULL AND new_cert_id IS NULL AND leased_until IS NULL"
        if await self._fetch(f"SELECT count(*) FROM certrotation WHERE {waits} AND last_error IS NOT NULL"):
            await self._rotate()
            return False
        return True

    async def _rotate(self) -> bool:
        return await self._ask("POST", "/v1/secrets/s0/rotations", {})

    def _count(self, requests: list[str]) -> None:
        """What the CA was asked for: one order and one certificate a Rotation, and no more."""
        bought = len(self._secrets) + self.bought_besides
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


class Delivered(Story):
    """An issuance to the Targets of one Secret, which are honest."""

    ends: ClassVar[set[str]] = {"completed"}

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        targets = [
            Target(f"impostor-{number}", "s0", self._secrets["s0"], free_port())
            for number in range(self._fleet())
        ]
        ports = [self._plane.sds_port]
        self._impostors = [
            XdsImpostor(target, directory / target.name, self._plane.clients, ports) for target in targets
        ]
        self._plane.settings["grants"] = [
            {"identity": impostor.identity, "names": ["s0"]} for impostor in self._impostors
        ]
        self._plane.settings["rotation"]["settle"] = "1h"

    def _vary(self) -> tuple[int, int]:
        return 1, 1

    def _fleet(self) -> int:
        return 1

    async def _end(self) -> None:
        for impostor in self._impostors:
            await impostor.stop()
        await super()._end()

    async def _push(self) -> None:
        async def stored() -> bool:
            return bool(await self._fetch("SELECT count(*) FROM certificate"))

        async def registered() -> bool:
            return all([await self._register(impostor) for impostor in self._impostors])

        await self._alive_until(stored)  # or what dies of a delivery might die in the middle of an order
        await self._alive_until(registered)
        for impostor in self._impostors:
            if not impostor.started:
                await impostor.start()

    async def _register(self, impostor: XdsImpostor) -> bool:
        target = impostor.target
        body = {
            "probe": f"{HOST}:{target.port}",
            "identity": impostor.identity,
            "node_id": target.name,
            "secrets": [target.secret],
        }
        return await self._ask("PUT", f"/v1/targets/{target.name}", body)

    async def _completed(self, rotations: int) -> bool:
        """Wait until so many Rotations are complete; say whether the process still lives."""

        async def completed() -> bool:
            query = "SELECT count(*) FROM certrotation WHERE outcome = 'completed'"
            return int(await self._fetch(query)) >= rotations

        return await self._alive_until(completed)


class Refused(Delivered):
    """Its Target refuses the first Certificate, for which there is none to go back to."""

    ends: ClassVar[set[str]] = {"completed", "superseded"}
    bought_besides: ClassVar[int] = 1

    async def _push(self) -> None:
        self._impostors[0].conduct = Conduct.REFUSE
        await super()._push()

    async def _mended(self) -> bool:
        impostor = self._impostors[0]
        if impostor.conduct is Conduct.REFUSE:
            if not await self._fetch("SELECT count(*) FROM refused_content"):
                return False
            impostor.heal()
            return not await self._rotate()  # the answer is a new order
        return True


class Broken(Delivered):
    """The second pair in the inventory must not be served, and is taken back before anybody sees it."""

    bought_besides: ClassVar[int] = 1

    async def _push(self) -> None:
        await super()._push()
        if not await self._completed(1) or await self._fetch("SELECT count(*) FROM certificate") > 1:
            return
        database = await open_database(self._connect, size=1)
        try:
            await store_broken_pair(database, "s0", Flaw.KEY)
        finally:
            await database.close()

    async def _mended(self) -> bool:
        return await self._hastened()
