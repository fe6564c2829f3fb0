"""How often one set of names is ordered, and one name fails, before its CA would count it against us. Pure.

What a CA counts is data, by its directory's host: an internal CA, whose certificates may live minutes, counts
nothing. An operator's word goes before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Spacing:
    """``least`` between two certificates for the same names, ``certificates`` of them in ``per`` at most.

    ``failures`` validations of one name that fail in an hour, whichever Secret it stands in.
    """

    least: timedelta
    certificates: int
    per: timedelta
    failures: int


FAILURES_PER: Final = timedelta(hours=1)

_CAREFUL: Final = Spacing(
    # Let's Encrypt (letsencrypt.org/docs/rate-limits, August 2026): 5 for the same names in 7 days, 5 failed
    # validations of a name in an hour. The fifth is an operator's.
    least=timedelta(hours=1),
    certificates=4,
    per=timedelta(days=7),
    failures=4,
)

PRESETS: Final[Mapping[str, Spacing]] = {
    "acme-v02.api.letsencrypt.org": _CAREFUL,
    "acme-staging-v02.api.letsencrypt.org": _CAREFUL,
    # They publish no numbers: what suffices for Let's Encrypt is asked of them.
    "dv.acme-v02.api.pki.goog": _CAREFUL,
    "dv.acme-v02.test-api.pki.goog": _CAREFUL,
    "acme.zerossl.com": _CAREFUL,
    "acme.ssl.com": _CAREFUL,
}


@dataclass(frozen=True, slots=True)
class Wait:
    """How long an order is to wait, and why."""

    lasts: timedelta
    reason: str


def preset(host: str | None) -> Spacing | None:
    """Return what is known of the CA whose directory is at this host; None: it counts nothing."""
    return PRESETS.get(host or "")


def wait(
    spacing: Spacing, *, issued: Sequence[timedelta], failed: Mapping[str, Sequence[timedelta]]
) -> Wait | None:
    """Return how long the next order waits; None: it may go.

    ``issued``: how long ago certificates for exactly these names were; ``failed``: how long ago validations
    of each of the names failed.
    """
    waits = []
    ages = sorted(issued)
    if ages and ages[0] < spacing.least:
        said = f"a certificate for these names was issued within {_hours(spacing.least)}"
        waits.append(Wait(spacing.least - ages[0], said))
    if len(ages) >= spacing.certificates and ages[spacing.certificates - 1] < spacing.per:
        said = f"{spacing.certificates} certificates for these names were issued within {_hours(spacing.per)}"
        waits.append(Wait(spacing.per - ages[spacing.certificates - 1], said))
    for name, times in sorted(failed.items()):
        failures = sorted(times)
        if len(failures) >= spacing.failures and failures[spacing.failures - 1] < FAILURES_PER:
            said = f"{name}: {spacing.failures} validations of it failed within an hour"
            waits.append(Wait(FAILURES_PER - failures[spacing.failures - 1], said))
    return max(waits, key=lambda found: found.lasts, default=None)


def _hours(span: timedelta) -> str:
    days, hours = span / timedelta(days=1), span / timedelta(hours=1)
    return f"{days:g} days" if days >= 2 else f"{hours:g} h"  # noqa: PLR2004 - "1 days" is no English
