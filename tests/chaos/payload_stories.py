"""Stories of what is no certificate: a root that is rotated, one that is refused, session ticket keys.

Whatever dies in between, each proxy trusts at every moment what a fleet has agreed on, or what is being asked
of it, and never nobody; in the end all trust the same, and no version is left open.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from sds_server.payloads.trust import fingerprint_of
from sds_server.programs.child import free_port
from tests.chaos.impostors import Conduct, XdsImpostor
from tests.chaos.stories import Ca, Story
from tests.chaos.targets import Target
from tests.support.pki import authority

BUNDLE, TICKETS = "clients", "tickets"
OLD, NEW = authority("Old root"), authority("New root")
FLEET = 3
VERSIONS = 5

RELEASE = "UPDATE ticket_schedule SET leased_until = NULL WHERE leased_until IS NOT NULL RETURNING 1"
"""A replica that died over a key keeps others from it for a minute: no story waits for that."""


class Truster(XdsImpostor):
    """Holds a trust bundle, and remembers each that it had."""

    def __init__(self, target: Target, directory: Path, *more: Any) -> None:
        super().__init__(target, directory, *more)
        self.trusted: list[frozenset[bytes]] = []
        """The CAs of each bundle that it took, by the text that they begin with."""

        self.tickets: list[tuple[bytes, ...]] = []

    def heal(self) -> None:
        self.conduct = Conduct.OBEY

    def _load(self, secret: Secret) -> None:
        match secret.WhichOneof("type"):
            case "validation_context":
                pem = secret.validation_context.trusted_ca.inline_bytes
                self.trusted.append(frozenset(ca.pem for ca in (OLD, NEW) if ca.pem in pem))
            case "session_ticket_keys":
                self.tickets.append(tuple(key.inline_bytes for key in secret.session_ticket_keys.keys))


class Payloads(Story):
    """Three proxies ask for one Secret that is no certificate."""

    secret: ClassVar[str]
    fleet: ClassVar[int] = FLEET

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._secrets, self._plane.settings["secrets"] = {}, {}
        targets = [Target(f"truster-{number}", self.secret, (), free_port()) for number in range(self.fleet)]
        self._trusters = [
            Truster(target, directory / target.name, self._plane.clients, [self._plane.sds_port])
            for target in targets
        ]
        self._plane.settings["grants"] = [
            {"identity": truster.identity, "names": [self.secret]} for truster in self._trusters
        ]
        self._plane.settings["rotation"]["settle"] = "1h"

    def _vary(self) -> tuple[int, int]:
        """Die at the third visit in the plain story: of a root's rotation that is its last phase."""
        return 1, self._rng.randint(1, 3) if self._varied else 3

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        for truster in self._trusters:
            await truster.start()
            stack.push_async_callback(truster.stop)

    async def _push(self) -> None:
        async def on() -> bool:
            await self._advance()
            return False  # until it dies

        await self._alive_until(on)

    async def _advance(self) -> bool:
        """Do what comes next, if its time has come; say whether this is a good place to end."""
        raise NotImplementedError

    async def _registered(self) -> bool:
        """Have all counted, seen or not: then nothing ends before each of them has said something."""
        for truster in self._trusters:
            body = {"identity": truster.identity, "node_id": truster.target.name, "secrets": [self.secret]}
            if not await self._ask("PUT", f"/v1/targets/{truster.target.name}", body):
                return False
        return True

    async def _versions(self) -> list[tuple[str, str | None]]:
        if await self._fetch("SELECT count(*) FROM payload") is None:
            return []
        rows = await self._sql.fetch("SELECT phase, outcome FROM payload ORDER BY generation")
        return [(row["phase"], row["outcome"]) for row in rows]

    async def _well(self) -> bool:
        return await self._advance()

    def _count(self, requests: list[str]) -> None:
        """No CA is asked for anything."""


class Rooted(Payloads):
    """A root is put, the next one added, the old one removed, and back, and so on."""

    secret: ClassVar[str] = BUNDLE
    outcomes: ClassVar[set[str]] = {"completed"}

    async def _advance(self) -> bool:
        versions = await self._versions()
        if not versions:
            await self._ask("PUT", f"/v1/secrets/{BUNDLE}/trust-bundle", {"cas": OLD.pem.decode()})
            return False
        if len(versions) == 1 and versions[0][1] is None:
            await self._registered()
            return False
        phase, outcome = versions[-1]
        if outcome is None:
            return False
        removed = sum(version == ("remove", "completed") for version in versions)
        gone, comes = (OLD, NEW) if removed % 2 == 0 else (NEW, OLD)
        if phase == "add" and outcome == "completed":
            fingerprint = fingerprint_of(gone.certificate)
            await self._ask("DELETE", f"/v1/secrets/{BUNDLE}/trust-bundle/cas/{fingerprint}", None)
            return False
        if phase == "remove" and outcome == "completed" and not self._dying_wanted():
            return await self._all_trust({comes.pem} if removed == 0 else {gone.pem})
        cas = {"cas": comes.pem.decode()}
        await self._ask("POST", f"/v1/secrets/{BUNDLE}/trust-bundle/cas", cas)
        return False

    def _dying_wanted(self) -> bool:
        """Whether the process is to die still: then one rotation follows the other."""
        return not self._last

    async def _all_trust(self, cas: set[bytes]) -> bool:
        return all(truster.trusted[-1:] == [frozenset(cas)] for truster in self._trusters)

    _last = False

    async def _well(self) -> bool:
        self._last = True
        return await super()._well()

    async def _judge(self) -> list[str]:
        found = []
        outcomes = {outcome for _, outcome in await self._versions()}
        if outcomes != self.outcomes:
            found.append(f"the versions ended as {outcomes}")
        for truster in self._trusters:
            if frozenset() in truster.trusted:
                found.append(f"{truster.target.name} trusted nobody")
            jumps = zip(truster.trusted, truster.trusted[1:], strict=False)
            if any(not before & after for before, after in jumps):
                found.append(f"{truster.target.name} came from one root to the other without the union")
            if truster.resent:
                found.append(f"{truster.target.name} was sent again what it had refused")
        query = "SELECT count(*) FROM certaudit WHERE action = 'payload.stored'"
        if (told := await self._fetch(query)) != len(await self._versions()):
            found.append(f"the audit tells of {told} versions")
        return found


class Unrooted(Rooted):
    """The union is refused by all, and taken back; once they are mended it goes through, as other bytes."""

    outcomes: ClassVar[set[str]] = {"completed", "rejected"}
    fleet: ClassVar[int] = 2
    """Both are asked, and heard, before it is taken back: no word of a third is lost in memory."""

    def _vary(self) -> tuple[int, int]:
        return 1, 1

    async def _advance(self) -> bool:
        versions = await self._versions()
        refused = ("add", "rejected") in versions
        good = len(versions) == 1 and versions[0][1] == "completed"
        if good:
            for truster in self._trusters:
                truster.conduct = Conduct.REFUSE
        elif refused and self._dying_wanted() and versions[-1][1] is not None:
            # What is refused once more dies once more.
            cas = {"cas": NEW.pem.decode()}
            await self._ask("POST", f"/v1/secrets/{BUNDLE}/trust-bundle/cas", cas)
            return False
        elif refused and not self._dying_wanted():
            for truster in self._trusters:
                truster.heal()
        return await super()._advance()


class Ticketed(Payloads):
    """Session ticket keys are made every minute, and hastened."""

    secret: ClassVar[str] = TICKETS
    keep: ClassVar[int] = 3

    def _vary(self) -> tuple[int, int]:
        return 1, self._rng.randint(1, 2) if self._varied else 2

    async def _advance(self) -> bool:
        # Asked twice for one there would be two, and the first be taken from its canaries. So this is read
        # first: what is made meanwhile is among the versions.
        nothing_due = await self._fetch("SELECT next_at > certvoy_now() FROM ticket_schedule")
        versions = await self._versions()
        if not versions:
            body = {"rotate_every_s": 3600, "keep": self.keep}
            await self._ask("PUT", f"/v1/secrets/{TICKETS}/ticket-keys", body)
            await self._registered()
            await self._fetch(RELEASE)
            return False
        if versions[-1][1] is None:
            return False
        if len(versions) < VERSIONS:
            await self._fetch(RELEASE)
            if nothing_due:
                await self._ask("POST", f"/v1/secrets/{TICKETS}/ticket-keys/rotations", {})
            return False
        return len({truster.tickets[-1] for truster in self._trusters if truster.tickets}) == 1

    async def _judge(self) -> list[str]:
        found = []
        (held,) = {truster.tickets[-1] for truster in self._trusters}
        if len(held) != self.keep:
            found.append(f"{len(held)} keys are held, not {self.keep}")
        for truster in self._trusters:
            for before, after in zip(truster.tickets, truster.tickets[1:], strict=False):
                if before[0] not in after:
                    found.append(f"{truster.target.name} lost the key that it had encrypted with")
        query = "SELECT count(*) FROM payload WHERE outcome IS DISTINCT FROM 'completed'"
        if (left := await self._fetch(query)) != 0:
            found.append(f"{left} versions are not with every proxy")
        return found
