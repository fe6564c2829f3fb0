"""When to renew a certificate, and why. Pure: only its dates count, never the configuration it came from.

A certificate is due when a third of its life is left, or half of it where it lives under ten days: Let's
Encrypt's published advice, and what certbot and lego do. For 90 days that is 30 days before the end.

| lifetime | due, before the end | floor, before the end |
|----------|---------------------|-----------------------|
| 90 d     | 30 d                | 15 d                  |
| 47 d     | 15.7 d              | 7.8 d                 |
| 160 h    | 80 h                | 40 h                  |
| 24 h     | 12 h                | 6 h                   |
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

LONG_LIFE = timedelta(days=10)
MAX_JITTER = timedelta(hours=24)
JITTER_SHARE = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class Decision:
    """Renew ``at``, because of ``reason`` (a fixed word for logs and the audit)."""

    at: datetime
    reason: str


def decide(*, not_before: datetime, not_after: datetime, jitter: float = 0.0) -> Decision:
    """Say when to renew; ``jitter`` in [0, 1] is the certificate's own fixed fraction.

    It is a fraction of the certificate and not of the moment, so that all replicas agree and certificates
    that were issued together are not renewed together.
    """
    life = not_after - not_before
    spread = min(life * float(JITTER_SHARE), MAX_JITTER) * jitter
    at = min(
        due(not_before=not_before, not_after=not_after) + spread,
        floor(not_before=not_before, not_after=not_after),
    )
    return Decision(at, "third-left" if life >= LONG_LIFE else "half-left")


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
