"""How far this machine's clock is from those of its CAs, by the Date of each of their answers.

A clock that is wrong breaks silently: a certificate of now counts as not yet valid, a renewal comes late, an
expired pair is served on. A CA's clock is right by its trade, and every answer of one tells us.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from sds_server.clock import Clock
from sds_server.log import get

LIMIT: Final = timedelta(seconds=60)
"""CAs date certificates an hour back for clocks of others; a machine with NTP is milliseconds off."""

SAID_AGAIN: Final = timedelta(hours=1)

HINT: Final = "set this machine's clock: see that chronyd or systemd-timesyncd runs and reaches its servers"

_log = get("skew")


class Skew:
    """What the last answer of each CA said; bounded by the CAs of the configuration."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._ahead: dict[str, timedelta] = {}
        self._said: dict[str, float] = {}

    @property
    def ahead(self) -> Mapping[str, timedelta]:
        """How far we are ahead of each CA that has answered; negative: behind."""
        return MappingProxyType(self._ahead)

    def measured(self, issuer: str, ahead: timedelta) -> None:
        """Keep what an answer said; log it where that is too far, once an hour, and when it is over."""
        self._ahead[issuer] = ahead
        seconds = ahead.total_seconds()
        if abs(ahead) <= LIMIT:
            if self._said.pop(issuer, None) is not None:
                _log.info("clock.agrees", issuer=issuer, ahead_s=seconds)
            return
        now, said = self._clock.monotonic(), self._said.get(issuer)
        if said is None or now - said >= SAID_AGAIN.total_seconds():
            self._said[issuer] = now
            _log.error("clock.skewed", issuer=issuer, ahead_s=seconds, hint=HINT)

    def said(self, issuer: str) -> str | None:
        """Return in words how far we are from this CA, where that is too far."""
        ahead = self._ahead.get(issuer, timedelta(0))
        if abs(ahead) <= LIMIT:
            return None
        return f"{abs(ahead).total_seconds():.0f} s {'ahead of' if ahead > LIMIT else 'behind'} {issuer}'s"

    def complaints(self) -> Sequence[str]:
        """Return in words each difference that is too far."""
        return [said for issuer in sorted(self._ahead) if (said := self.said(issuer)) is not None]
