"""Retry intervals as data: how long to leave a CA alone after a failure."""

from datetime import datetime, timedelta
from typing import Protocol

ATTEMPTS = (
    timedelta(minutes=1),  # after   1 min: a passing fault
    timedelta(minutes=10),  # after  11 min
    timedelta(minutes=100),  # after 111 min: under the CAs' four failures an hour
)
DAILY = timedelta(hours=24)
REMAINING_SHARE = 8
"""An interval is at most this part of what is left: eight tries and more before the certificate ends."""

GIVES_UP = timedelta(days=30)
"""So long after the certificate's end nobody waits for the next one by itself any more."""

SHORTEST = timedelta(seconds=10)
SPREAD = (0.8, 1.2)

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Between two sendings of one request that the CA could not take: after a total of 1, 3, 7, 15 ... s."""


class Rng(Protocol):
    """What is needed of `random.Random`."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between the two."""
        ...


def next_attempt(
    *,
    attempts: int,
    now: datetime,
    not_after: datetime | None,
    retry_after: timedelta | None,
    rng: Rng,
) -> datetime | None:
    """Say when to try again after ``attempts`` failures in a row (at least one); None: a person must ask.

    ``not_after`` is the end of the certificate now served, if there is one: a short-lived certificate is
    retried sooner. What the CA asked for by Retry-After is never undercut.
    """
    if not_after is not None and now >= not_after + GIVES_UP:
        return None
    interval = ATTEMPTS[attempts - 1] if attempts <= len(ATTEMPTS) else DAILY
    if not_after is not None and not_after > now:
        interval = min(interval, max((not_after - now) / REMAINING_SHARE, SHORTEST))
    return now + max(interval * rng.uniform(*SPREAD), retry_after or timedelta(0))


def pause_s(tries: int, rng: Rng) -> float:
    """Say how many seconds to wait in place after ``tries`` refused sendings (at least one)."""
    return PAUSES_S[min(tries, len(PAUSES_S)) - 1] * rng.uniform(*SPREAD)
