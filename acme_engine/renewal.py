"""When to renew a certificate, and why. Pure: only its dates count, never the configuration it came from.

A certificate is due when a third of its life is left, or half of it where it lives under ten days: Let's
Encrypt's published advice, and what certbot and lego do. For 90 days that is 30 days before the end. What its
CA wishes (`ari`) comes before that, and the floor before all. docs/reference/renewal.md has the table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from uuid import UUID

LONG_LIFE = timedelta(days=10)
MAX_JITTER = timedelta(hours=24)
JITTER_SHARE = Fraction(1, 50)


YOUNG_SHARE = Fraction(1, 20)
YOUNG_LEAST = timedelta(hours=1)
"""A certificate is young for a twentieth of its life, an hour at least: so soon no CA means to renew it."""

ARI_SPACING = timedelta(hours=1)
ARI_DAY = timedelta(hours=24)
ARI_PER_DAY = 3
"""So often at most a CA's wish replaces a young certificate: a stale window cost others five in ten seconds
(cert-manager#8993)."""

WINDOW = "ari-window"
PAST = "ari-window-past"
CLAMPED = "ari-clamped"
HELD = "ari-held-back"


@dataclass(frozen=True, slots=True)
class Decision:
    """Renew ``at``, because of ``reason`` (a fixed word for logs and the audit)."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a CA wishes: the moment that was drawn in its window, once.

    ``past``: the window was over when it was told, which is how a CA says "now". ``doubtful``: the CA does
    not answer at present; then it may bring a renewal forward, and never put it off.
    """

    at: datetime
    past: bool = False
    doubtful: bool = False


def decide(*, not_before: datetime, not_after: datetime, wish: Wish | None = None) -> Decision:
    """Say when a renewal is wanted: from then on the certificate counts as expiring soon.

    To the second: who has 90 days is due 30 days before they end. What is due together is not ordered
    together: see `spread`.
    """
    life = not_after - not_before
    latest = floor(not_before=not_before, not_after=not_after)
    ours = Decision(
        due(not_before=not_before, not_after=not_after),
        "third-left" if life >= LONG_LIFE else "half-left",
    )
    if wish is None or (wish.doubtful and wish.at >= ours.at):
        return ours
    if wish.at > latest:
        return Decision(latest, CLAMPED)
    return Decision(wish.at, PAST if wish.past else WINDOW)


def tempered(
    decision: Decision,
    *,
    issued_at: datetime,
    not_before: datetime,
    not_after: datetime,
    earlier: Sequence[datetime],
) -> Decision:
    """Hold back a CA that would have a young certificate replaced again and again.

    ``issued_at`` is our own clock's moment: ``not_before`` lies an hour back by habit. ``earlier``: when
    certificates of the same name were renewed by such a wish, within a day. The floor is kept.
    """
    young_until = issued_at + max((not_after - not_before) * float(YOUNG_SHARE), YOUNG_LEAST)
    if decision.reason not in {WINDOW, PAST} or decision.at >= young_until or not earlier:
        return decision
    times = sorted(earlier)
    at = max(decision.at, times[-1] + ARI_SPACING)
    if len(times) >= ARI_PER_DAY:
        at = max(at, times[-ARI_PER_DAY] + ARI_DAY)
    at = min(at, floor(not_before=not_before, not_after=not_after))
    return decision if at <= decision.at else Decision(at, HELD)


def jitter(certificate: UUID) -> float:
    """Return the fraction of a certificate that every replica computes alike of its id, a random one."""
    return certificate.int % 1_000_000 / 1_000_000


def spread(*, not_before: datetime, not_after: datetime, jitter: float) -> timedelta:
    """Return how long after `due` the order is made; ``jitter`` in [0, 1] is the certificate's own fraction.

    A CA that wishes a renewal has spread it by itself.
    """
    return min((not_after - not_before) * float(JITTER_SHARE), MAX_JITTER) * jitter


def due(*, not_before: datetime, not_after: datetime) -> datetime:
    """Return the moment from which a renewal is wanted."""
    life = not_after - not_before
    return not_after - _share(life, Fraction(1, 3) if life >= LONG_LIFE else Fraction(1, 2))


def floor(*, not_before: datetime, not_after: datetime) -> datetime:
    """Return the moment that no reason may put a renewal off beyond; an alarm belongs here."""
    life = not_after - not_before
    return not_after - _share(life, Fraction(1, 6) if life >= LONG_LIFE else Fraction(1, 4))


def _share(life: timedelta, share: Fraction) -> timedelta:
    """Round up to a whole second: 7,775,999 s, a CA's "90 days", are due exactly 30 days before their end."""
    return timedelta(seconds=math.ceil(life // timedelta(seconds=1) * share))
