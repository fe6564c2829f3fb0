"""Looks: what a Target serves now, seen by a handshake or told by its Envoy's admin interface."""

from collections.abc import Callable
from typing import Final

from sds_server.errors import CallerError
from sds_server.inventory.voices import Look, Wanted
from sds_server.model import ProvedBy, Target, TargetKind
from sds_server.payloads.trust import serials_of
from sds_server.targets.certs import loaded_cas, loaded_serials
from sds_server.targets.places import at_each, served
from sds_server.targets.probe import ProbeFailed, covered
from sds_server.targets.verdict import Stated, stated

NO_ADDRESS: Final = "no address to probe: `certvoy targets add NAME --probe HOST:PORT`"
UNLISTED: Final = (
    "what an Envoy chose on demand is not in its /certs: `certvoy targets add NAME --probe HOST:PORT`"
)
NOT_REPORTED: Final = "its agent has not reported it as proved, and there is no address to probe"

Told = Callable[[str], None]
"""Told of each look: ``proved``, ``different``, ``failed`` or ``unprobed``."""


async def look(target: Target, wanted: Wanted, *, told: Told) -> Look:
    """Look once. A handshake where there is a listener to reach, else Envoy's own statement."""
    if target.probe is not None:
        return await _handshakes(target, target.probe, wanted, told)
    if target.admin is not None and wanted.on_demand:
        told("unprobed")
        return Look(target.id, error=UNLISTED)
    if target.admin is not None:
        return await _statement(target, target.admin, wanted, told)
    told("unprobed")
    return Look(target.id, error=NO_ADDRESS if target.kind is TargetKind.ENVOY else NOT_REPORTED)


async def bundle(address: str, content: str, before: str | None) -> tuple[Stated | None, str | None]:
    """Ask the Envoy at ``address`` which of two versions of a bundle it has loaded; or say why it is mute."""
    try:
        loaded = await at_each(address, loaded_cas)
    except (ProbeFailed, CallerError) as e:
        return None, str(e)
    wanted, old = serials_of(content), serials_of(before)
    said = [stated(cas, wanted=wanted, before=old) for cas in loaded.values()]
    return next((each for each in said if each is not Stated.LOADED), Stated.LOADED), None


async def _handshakes(target: Target, address: str, wanted: Wanted, told: Told) -> Look:
    """Ask for each name, with a fresh session, wherever the address leads."""
    before = None if wanted.before is None else wanted.before.fingerprint
    for domain in wanted.domains:
        try:
            seen = await served(address, covered(domain), wanted=wanted.fingerprint, before=before)
        except (ProbeFailed, CallerError) as e:
            told("failed")
            return Look(target.id, error=str(e))
        if seen.fingerprint != wanted.fingerprint:
            told("different")
            shown, meant = seen.fingerprint[:16], wanted.fingerprint[:16]
            error = f"{seen.place} serves {shown}... for {domain}, not {meant}..."
            return Look(target.id, error=error, served=seen.fingerprint)
    told("proved")
    return Look(target.id, by=ProvedBy.HANDSHAKE)


async def _statement(target: Target, address: str, wanted: Wanted, told: Told) -> Look:
    """Ask Envoy: the wanted one is loaded, and the one before is not."""
    try:
        loaded = await at_each(address, loaded_serials)
    except (ProbeFailed, CallerError) as e:
        told("failed")
        return Look(target.id, error=str(e))
    before = wanted.before
    for place, serials in loaded.items():
        if before is not None and int(before.serial_number, 16) in serials:
            told("different")
            error = f"{place}/certs: generation {before.generation} is loaded still"
            return Look(target.id, error=error, served=before.fingerprint)
        if int(wanted.serial_number, 16) not in serials:
            told("different")
            return Look(target.id, error=f"{place}/certs: generation {wanted.generation} is not loaded")
    told("proved")
    return Look(target.id, by=ProvedBy.CERTS)
