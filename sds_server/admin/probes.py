"""``/v1/secrets/{name}/probes``: what a handshake, or Envoy's own statement, shows at each target, now."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel

from sds_server.admin import shapes
from sds_server.admin.routes import Answer, Call, Route, Shape, Text
from sds_server.admin.services import Services
from sds_server.errors import CallerError, NotFound
from sds_server.inventory import certificates, offers, on_demand, secrets, targets
from sds_server.inventory.targets import Live
from sds_server.model import Certificate, Scope
from sds_server.targets.certs import loaded_serials
from sds_server.targets.places import all_of, found, seen_of, served
from sds_server.targets.probe import ProbeFailed, Way, covered
from sds_server.targets.verdict import NO_ADDRESS, UNLISTED, Verdict, judge

AT_ONCE: Final = 64
PROBES_MAX: Final = 1000
"""Handshakes that one request may cause; a larger fleet is looked at target by target."""


class ProbesQuery(Shape):
    """Which target; all of the live set without."""

    target: Text | None = None


class Probe(shapes.Stated):
    """What a handshake with a target showed for one name, or what its Envoy says that it has loaded."""

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
    """A handshake to be made, or an Envoy to be asked, then what that showed."""

    target: str
    probe: str | None
    proxy_protocol: bool
    http3: bool
    admin: str | None
    server_name: str
    wanted: Certificate
    loaded: Mapping[str, frozenset[int] | ProbeFailed] | None = None
    verdict: Verdict = Verdict.UNPROBED
    fingerprint: str | None = None
    reason: str | None = NO_ADDRESS
    place: str | None = None
    """Where that was shown, of the places that ``probe`` leads to."""


async def probe_secret(call: Call) -> Answer:
    """Make a handshake at each target for each name, and say what was served."""
    items = await of(call.services, call.path["name"], only=call.query(ProbesQuery).target)
    return Answer(Probes(items=list(items)))


async def of(services: Services, name: str, *, only: str | None = None) -> Sequence[Probe]:
    """Return what each target of the secret shows, or one.

    Raises:
        NotFound: nothing is served under that name, or there is no such target.
        CallerError: these would be too many handshakes.
    """
    database = services.database
    offer = (await offers.of(database, [name])).get(name)
    if offer is None or offer.cert_id is None:
        await secrets.get(database, name)
        raise NotFound(
            f"secret {name}: nothing is issued yet", hint=f"`certvoy why {name}` says what it waits for"
        )
    current = (await certificates.get(database, offer.cert_id)).certificate
    before = None if offer.before is None else (await certificates.get(database, offer.before)).certificate
    live = [item for item in await targets.live_set(database, name) if only in {None, item.target.name}]
    if only is not None and not live:
        raise NotFound(f"target {only}: it does not count for {name}", hint="`certvoy targets ls`")
    chosen = await on_demand.asked(database, name) is not None
    looks = _looks(live, current, before, chosen=chosen)
    if len(looks) > PROBES_MAX:
        raise CallerError(
            f"{len(looks):,} handshakes are more than {PROBES_MAX:,}", hint="name one with ?target="
        )
    limit = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_look(look, limit)) for look in looks]
    done = [task.result() for task in tasks]
    known = await certificates.generations(
        database, name, {look.fingerprint for look in done if look.fingerprint is not None}
    )
    serials = await certificates.serials(database, name) if any(look.loaded for look in done) else {}
    now = services.clock.now()
    return [Probe.model_validate(_judged(look, known, serials, now)) for look in done]


def _looks(
    live: Sequence[Live], current: Certificate, before: Certificate | None, *, chosen: bool
) -> Sequence[_Look]:
    """Return what to look at: each name, or once where an Envoy is asked, which says nothing of names.

    Of what it has ``chosen`` on demand it says nothing at all, and is not asked. While canaries have the
    current one, ``before`` is what all others should serve.
    """
    return [
        _Look(
            target=item.target.name,
            probe=item.target.probe,
            proxy_protocol=item.target.proxy_protocol,
            http3=item.target.http3,
            admin=None if chosen else item.target.admin,
            server_name=covered(domain),
            wanted=before if item.waits and before is not None else current,
            reason=UNLISTED if chosen and item.target.admin is not None else NO_ADDRESS,
        )
        for item in live
        for domain in (
            current.domains[:1] if item.target.probe is None and item.target.admin else current.domains
        )
    ]


async def _look(look: _Look, limit: asyncio.Semaphore) -> _Look:
    async with limit:
        try:
            if look.probe is not None:
                way = Way(look.probe, proxy_protocol=look.proxy_protocol, http3=look.http3)
                seen = await served(way, look.server_name, wanted=look.wanted.fingerprint)
                return replace(look, fingerprint=seen.fingerprint, place=seen.place)
            if look.admin is not None:
                return replace(look, loaded=await found(look.admin, loaded_serials))
        except (ProbeFailed, CallerError) as e:
            return replace(look, verdict=Verdict.UNREACHABLE, reason=str(e))
    return look


def _judged(look: _Look, known: Mapping[str, int], serials: Mapping[int, int], now: datetime) -> _Look:
    wanted, fingerprint = look.wanted, look.fingerprint
    stated = look.loaded or {}
    for place, loaded in seen_of(stated).items():  # who fails hides nobody
        generations = {serials[serial] for serial in loaded if serial in serials}
        if not generations:
            reason = f"{place}/certs: no leaf of the secret is loaded"
            return replace(look, verdict=Verdict.FOREIGN, reason=reason)
        if older := generations - {wanted.generation}:
            reason = f"{place}/certs: generation {min(older)} is loaded, not {wanted.generation} alone"
            return replace(look, verdict=Verdict.STALE, reason=reason)
        fingerprint = wanted.fingerprint
    try:
        all_of(stated)
    except ProbeFailed as e:
        return replace(look, verdict=Verdict.UNREACHABLE, reason=str(e))
    if fingerprint is None:
        return look
    generation = wanted.generation if look.loaded is not None else known.get(fingerprint)
    verdict, reason_of = judge(wanted, fingerprint=fingerprint, generation=generation, now=now)
    if reason_of is not None and look.place not in {None, look.probe}:
        reason_of = f"{look.place}: {reason_of}"
    return replace(look, verdict=verdict, fingerprint=fingerprint, reason=reason_of)


ROUTES = (
    Route(
        method="POST",
        path="/v1/secrets/{name}/probes",
        handler=probe_secret,
        summary="Make a handshake at each target now, or ask its Envoy, and say what is served",
        scope=Scope.READ,
        query=ProbesQuery,
        answers={HTTPStatus.OK: Probes},
    ),
)
