"""Looks: what a Target serves now, seen by a handshake or told by its Envoy's admin interface."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sds_server.errors import CallerError
from sds_server.inventory.voices import Look, Wanted
from sds_server.model import ProvedBy, Target, TargetKind
from sds_server.payloads.trust import serials_of
from sds_server.targets.certs import loaded_cas, loaded_serials
from sds_server.targets.places import all_of, found, leads_to_one, seen_of, served
from sds_server.targets.probe import HungUp, ProbeFailed, Way, covered
from sds_server.targets.verdict import NO_ADDRESS, UNLISTED, Stated, stated

NOT_REPORTED: Final = "its agent has not reported it as proved, and there is no address to probe"

OTHERS_S: Final = 3.0
"""For so long the other names are asked for after one has failed: who is away keeps nobody waiting."""

Told = Callable[[str], None]
"""Told of each look: ``proved``, ``different``, ``failed`` or ``unprobed``."""


async def look(target: Target, wanted: Wanted, *, told: Told) -> Look:
    """Look once. A handshake where there is a listener to reach, else Envoy's own statement."""
    if target.probe is not None:
        way = Way(target.probe, proxy_protocol=target.proxy_protocol, http3=target.http3)
        return await _handshakes(target, way, wanted, told)
    if target.admin is not None and wanted.on_demand:
        told("unprobed")
        return Look(target.id, error=UNLISTED)
    if target.admin is not None:
        return await _statement(target, target.admin, wanted, told)
    told("unprobed")
    return Look(target.id, error=NO_ADDRESS if target.kind is TargetKind.ENVOY else NOT_REPORTED)


async def bundle(address: str, content: str, before: str | None) -> tuple[Stated | None, str | None]:
    """Ask the Envoy at ``address`` which of two versions of a bundle it has loaded; or say why it is mute."""
    wanted, old = serials_of(content), serials_of(before)
    try:
        loaded = await found(address, loaded_cas)
        said = {stated(cas, wanted=wanted, before=old) for cas in seen_of(loaded).values()}
        for other in (Stated.BEFORE, Stated.MISSING):
            if other in said:
                return other, None
        all_of(loaded)
    except (ProbeFailed, CallerError) as e:
        return None, str(e)
    return Stated.NOTHING if Stated.NOTHING in said else Stated.LOADED, None


async def _handshakes(target: Target, way: Way, wanted: Wanted, told: Told) -> Look:
    """Ask for each name, with a fresh session, wherever the address leads.

    One that fails hides no other that is shown another leaf: those are asked for as well, for a while.
    """
    before = None if wanted.before is None else wanted.before.fingerprint
    failed = None
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            for domain in wanted.domains:
                try:
                    seen = await served(way, covered(domain), wanted=wanted.fingerprint, before=before)
                except (ProbeFailed, CallerError) as e:
                    if failed is None:
                        failed = str(e)
                        limit.reschedule(asyncio.get_running_loop().time() + OTHERS_S)
                    if isinstance(e, CallerError) or (
                        not isinstance(e, HungUp) and leads_to_one(way.address) and not way.http3
                    ):
                        break  # nobody answers there, for whatever name
                    continue
                if seen.fingerprint != wanted.fingerprint:
                    told("different")
                    shown, meant = seen.fingerprint[:16], wanted.fingerprint[:16]
                    error = f"{seen.place} serves {shown}... for {domain}, not {meant}..."
                    return Look(target.id, error=error, served=seen.fingerprint)
    if failed is not None:
        told("failed")
        return Look(target.id, error=failed)
    told("proved")
    return Look(target.id, by=ProvedBy.HANDSHAKE)


async def _statement(target: Target, address: str, wanted: Wanted, told: Told) -> Look:
    """Ask Envoy: the wanted one is loaded, and the one before is not."""
    before = wanted.before
    try:
        loaded = await found(address, loaded_serials)
        for place, serials in seen_of(loaded).items():
            if before is not None and int(before.serial_number, 16) in serials:
                told("different")
                error = f"{place}/certs: generation {before.generation} is loaded still"
                return Look(target.id, error=error, served=before.fingerprint)
            if int(wanted.serial_number, 16) not in serials:
                told("different")
                error = f"{place}/certs: generation {wanted.generation} is not loaded"
                return Look(target.id, error=error, missing=True)
        all_of(loaded)
    except (ProbeFailed, CallerError) as e:
        told("failed")
        return Look(target.id, error=str(e))
    told("proved")
    return Look(target.id, by=ProvedBy.CERTS)
