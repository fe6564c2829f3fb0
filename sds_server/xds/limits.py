"""What one identity may cost: streams at once, and names that it may not see or that do not exist.

Names that exist are never counted: a fleet that comes back at once costs nothing here. An identity that asks
for made-up names would have each looked up in the inventory, and each that it may not see audited.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sds_server.clock import Clock
from sds_server.log import get
from sds_server.model import Identity
from sds_server.xds.caller import Ended, Status

STREAMS: Final = 10_000  # of one identity: Envoy opens one a Secret outside of ADS, and a fleet may share one
MAX_IDENTITIES: Final = 10_000  # remembered; a full bucket is as good as none
HOLD_S: Final = 0.25  # how long a name waits at least, so that many that wait do not ask all the time


@dataclass(frozen=True, slots=True)
class _Rate:
    burst: float
    per_s: float


LOOK_UPS: Final = _Rate(5_000, 50)  # of names that do not exist; the burst is as a fleet's first question
BYTES: Final = _Rate(8 * 1024 * 1024, 1024 * 1024)  # of requests that are larger than any of Envoy's
ORDINARY_BYTES: Final = 128 * 1024  # Envoy's first request has 61 kB, and with some thousand names twice that
DENIALS: Final = _Rate(1_000, 1)  # that are logged and audited

_log = get("sds")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Limits:
    """Counts for each identity what it has open, and what it asks in vain."""

    def __init__(self, clock: Clock, *, streams: int = STREAMS) -> None:
        """``streams``: so many may one identity have open, and fetches under way."""
        self._clock = clock
        self._most = streams
        self._open: dict[Identity, int] = {}
        self._buckets: dict[tuple[Identity, _Rate], _Bucket] = {}
        self._wanted: dict[Identity, dict[str, int]] = {}
        self._waiting: dict[Identity, set[Callable[[], None]]] = {}

    @contextmanager
    def stream(self, identity: Identity) -> Iterator[None]:
        """Count one for the length of the block.

        Raises:
            Ended: the identity has as many as it may.
        """
        before = self._open.get(identity, 0)
        if before >= self._most:
            _log.warning("streams.capped", identity=identity, most=self._most)
            raise Ended(Status.RESOURCE_EXHAUSTED, f"{identity} has {self._most} streams open already")
        self._open[identity] = before + 1
        try:
            yield
        finally:
            left = self._open[identity] - 1
            if left:
                self._open[identity] = left
            else:
                del self._open[identity]

    def take_name(
        self, identity: Identity, name: str, most: int, *, wake: Callable[[], None] | None = None
    ) -> bool:
        """Count one that wants the name, until `drop_name`; False: it would be one more than ``most``.

        A name that several streams want is one. ``wake`` is called, once, when there may be room.
        """
        names = self._wanted.setdefault(identity, {})
        if name not in names and len(names) >= most:
            if wake is not None:
                self._waiting.setdefault(identity, set()).add(wake)
            return False
        names[name] = names.get(name, 0) + 1
        return True

    def drop_name(self, identity: Identity, name: str) -> None:
        """Take one back that was taken."""
        names = self._wanted[identity]
        names[name] -= 1
        if names[name]:
            return
        del names[name]
        if not names:
            del self._wanted[identity]
        for wake in self._waiting.pop(identity, ()):
            wake()

    def wait_no_more(self, identity: Identity, wake: Callable[[], None]) -> None:
        """Do not call ``wake`` any more."""
        waiting = self._waiting.get(identity, set())
        waiting.discard(wake)
        if not waiting:
            self._waiting.pop(identity, None)

    def may_look_up(self, identity: Identity) -> bool:
        """Count a name that has to be looked up; False: not now, ask again after `HOLD_S`."""
        return self._take(identity, LOOK_UPS)

    def exists(self, identity: Identity) -> None:
        """Take back the count of a name that turned out to exist."""
        self._bucket(identity, LOOK_UPS).tokens += 1

    def pause_s(self, identity: Identity, request_bytes: int) -> float:
        """Return how long to read nothing more after a request: what is large is taken in its own time."""
        if request_bytes <= ORDINARY_BYTES:
            return 0.0
        bucket = self._bucket(identity, BYTES)
        bucket.tokens -= request_bytes
        return max(0.0, -bucket.tokens / BYTES.per_s)

    def may_tell(self, identity: Identity) -> bool:
        """Count a denial; False: there have been too many to write them all down."""
        return self._take(identity, DENIALS)

    def _take(self, identity: Identity, rate: _Rate) -> bool:
        bucket = self._bucket(identity, rate)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        if bucket.tokens < 1:
            _log.warning("names.throttled", identity=identity)
        return True

    def _bucket(self, identity: Identity, rate: _Rate) -> _Bucket:
        now = self._clock.monotonic()
        bucket = self._buckets.get((identity, rate))
        if bucket is None:
            if len(self._buckets) >= 3 * MAX_IDENTITIES:
                self._forget(now)
            bucket = self._buckets[identity, rate] = _Bucket(rate.burst, now)
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.at) * rate.per_s)
        bucket.at = now
        return bucket

    def _forget(self, now: float) -> None:
        """Drop those that are full again."""
        self._buckets = {
            (who, rate): one
            for (who, rate), one in self._buckets.items()
            if one.tokens + (now - one.at) * rate.per_s < rate.burst
        }


class Room:
    """The names of one stream, among those that its identity may want at once.

    ``changed`` is called with each name for which there was no room, when there may be.
    """

    def __init__(self, limits: Limits, identity: Identity, changed: Callable[[str], None]) -> None:
        self._limits = limits
        self._identity = identity
        self._changed = changed
        self._taken: dict[str, str] = {}  # as what it counts
        self._crowded: set[str] = set()

    def take(self, name: str, most: int | None, *, secret: str) -> bool:
        """Count the name where there is a limit; False: there is no room for it.

        All names by which one Secret is asked for count once: it is a client's handshake that spells them.
        """
        if most is None or name in self._taken:
            return True
        if not self._limits.take_name(self._identity, secret, most, wake=self._wake):
            self._crowded.add(name)
            return False
        self._taken[name] = secret
        self._crowded.discard(name)
        return True

    def leave(self, name: str) -> None:
        """Count it no more."""
        self._crowded.discard(name)
        if name in self._taken:
            self._limits.drop_name(self._identity, self._taken.pop(name))

    def close(self) -> None:
        """Leave nothing behind."""
        self._crowded.clear()
        self._limits.wait_no_more(self._identity, self._wake)
        for name in tuple(self._taken):
            self.leave(name)

    def _wake(self) -> None:
        for name in tuple(self._crowded):
            self._changed(name)
