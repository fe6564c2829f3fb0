"""``/v1/secrets/{name}/probes``: what a handshake shows at each target, now."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel

from sds_server.admin import shapes
from sds_server.admin.routes import Answer, Call, Route, Shape, Text
from sds_server.errors import CallerError, NotFound
from sds_server.inventory import certificates, targets
from sds_server.inventory.targets import Live
from sds_server.model import Certificate, Scope
from sds_server.targets.probe import ProbeFailed, covered, served_fingerprint
from sds_server.targets.verdict import Verdict, judge

AT_ONCE: Final = 64
PROBES_MAX: Final = 1000
"""Handshakes that one request may cause; a larger fleet is looked at target by target."""


class ProbesQuery(Shape):
    """Which target; all of the live set without."""

    target: Text | None = None


class Probe(shapes.Stated):
    """What a handshake with a target showed for one name."""

    target: str
    probe: str | None
    server_name: str
    verdict: Verdict
    fingerprint: str | None
    reason: str | None


class Probes(BaseModel):
    """What the handshakes of a moment showed."""

    items: list[Probe]


@dataclass(frozen=True, slots=True)
class _Look:
    """A handshake to be made, then what it showed."""

    target: str
    probe: str | None
    server_name: str
    verdict: Verdict = Verdict.UNPROBED
    fingerprint: str | None = None
    reason: str | None = "no address to probe: `certvoy targets add NAME --probe HOST:PORT`"


async def probe_secret(call: Call) -> Answer:
    """Make a handshake at each target for each name, and say what was served."""
    database, name, only = call.services.database, call.path["name"], call.query(ProbesQuery).target
    served = (await certificates.served(database, [name])).get(name)
    if served is None or served.cert_id is None:
        raise NotFound(f"secret {name}: nothing is served under that name yet")
    current = (await certificates.get(database, served.cert_id)).certificate
    live = [item for item in await targets.live_set(database, name) if only in {None, item.target.name}]
    if only is not None and not live:
        raise NotFound(f"target {only}: it does not count for {name}", hint="`certvoy targets ls`")
    looks = _looks(live, current)
    if len(looks) > PROBES_MAX:
        raise CallerError(
            f"{len(looks):,} handshakes are more than {PROBES_MAX:,}", hint="name one with ?target="
        )
    limit = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_handshake(look, limit)) for look in looks]
    done = [task.result() for task in tasks]
    known = await certificates.generations(
        database, name, {look.fingerprint for look in done if look.fingerprint is not None}
    )
    now = call.services.clock.now()
    return Answer(Probes(items=[Probe.model_validate(_judged(look, current, known, now)) for look in done]))


def _looks(live: Sequence[Live], current: Certificate) -> Sequence[_Look]:
    return [
        _Look(target=item.target.name, probe=item.target.probe, server_name=covered(domain))
        for item in live
        for domain in current.domains
    ]


async def _handshake(look: _Look, limit: asyncio.Semaphore) -> _Look:
    if look.probe is None:
        return look
    async with limit:
        try:
            fingerprint = await served_fingerprint(look.probe, look.server_name)
        except (ProbeFailed, CallerError) as e:
            return replace(look, verdict=Verdict.UNREACHABLE, reason=str(e))
    return replace(look, fingerprint=fingerprint)


def _judged(look: _Look, current: Certificate, known: Mapping[str, int], now: datetime) -> _Look:
    if look.fingerprint is None:
        return look
    verdict, reason = judge(
        current, fingerprint=look.fingerprint, generation=known.get(look.fingerprint), now=now
    )
    return replace(look, verdict=verdict, reason=reason)


ROUTES = (
    Route(
        method="POST",
        path="/v1/secrets/{name}/probes",
        handler=probe_secret,
        summary="Make a handshake at each target now, and say what is served",
        scope=Scope.READ,
        query=ProbesQuery,
        answers={HTTPStatus.OK: Probes},
    ),
)
