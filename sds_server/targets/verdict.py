"""What a look means: is what is served, or loaded, what it should be? Pure."""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sds_server.model import Certificate

EXPIRING_SHARE: Final = 10
"""Less than a tenth of its life is left: long after its renewal was due, whatever its length."""

NO_ADDRESS: Final = "no address to probe: `certvoy targets add NAME --probe HOST:PORT`"
UNLISTED: Final = (
    "what an Envoy chose on demand is not in its /certs: `certvoy targets add NAME --probe HOST:PORT`"
)
"""Why nothing can be looked at."""


class Verdict(StrEnum):
    """What was found at a Target."""

    OK = "ok"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    STALE = "stale"
    FOREIGN = "foreign"
    UNREACHABLE = "unreachable"
    UNPROBED = "unprobed"


class Stated(StrEnum):
    """What an Envoy's own statement says of a trust bundle."""

    LOADED = "loaded"
    BEFORE = "before"  # the one before is loaded still, and this one is not
    MISSING = "missing"  # neither is loaded
    NOTHING = "nothing"  # it does not tell the two apart


def stated(loaded: Collection[frozenset[int]], *, wanted: frozenset[int], before: frozenset[int]) -> Stated:
    """Compare the CAs of each TLS context, by their serial numbers, with those of two versions.

    Where both are loaded, another Secret may hold the same CAs; and where both have the same CAs, and differ
    in their CRLs say, nothing is shown.
    """
    if wanted == before:
        return Stated.NOTHING
    if wanted in loaded:
        return Stated.NOTHING if before in loaded else Stated.LOADED
    return Stated.BEFORE if before in loaded else Stated.MISSING


def judge(
    current: Certificate, *, fingerprint: str, generation: int | None, now: datetime
) -> tuple[Verdict, str | None]:
    """Return what a served leaf is, and why it is not well.

    ``generation`` is the one of the Secret that the leaf is; None: certvoy never issued it for the Secret.
    """
    if generation is None:
        return Verdict.FOREIGN, "certvoy never issued this leaf for the secret"
    if fingerprint != current.fingerprint:
        return Verdict.STALE, f"it serves generation {generation}, not {current.generation}"
    left: timedelta = current.not_after - now
    if left <= timedelta(0):
        return Verdict.EXPIRED, f"it ended at {current.not_after:%FT%TZ}"
    if left * EXPIRING_SHARE < current.not_after - current.not_before:
        return Verdict.EXPIRING, f"it ends at {current.not_after:%FT%TZ}"
    return Verdict.OK, None
