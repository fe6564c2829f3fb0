"""What is rotated and looked at: a TLS port that serves one Secret, whoever stands behind it."""

import hashlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"


@dataclass
class Run:
    """Handshakes one after the other that showed the same leaf, by when they began."""

    fingerprint: str
    first: float
    last: float
    count: int = 1


@dataclass
class Target:
    """A port, and what the clients saw there. ``outages`` are when it was frozen or dead: begin, end."""

    name: str
    secret: str
    domains: tuple[str, ...]
    port: int
    runs: list[Run] = field(default_factory=list)
    outages: list[tuple[float, float | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    excused: bool = True
    """Nothing is expected of it: it has not served a first pair, or is down, or not seen well since."""

    @property
    def down(self) -> bool:
        """It is frozen or dead now."""
        return bool(self.outages) and self.outages[-1][1] is None

    def was_down(self, at: float) -> bool:
        """Whether it was down at that moment."""
        return any(begin <= at and (end is None or at <= end) for begin, end in self.outages)

    def falls(self) -> None:
        """From now on it is frozen or dead."""
        self.excused = True
        self.outages.append((time.time(), None))

    def rises(self) -> None:
        """From now on it may serve again; a client that sees it do so ends the excuse."""
        self.outages[-1] = (self.outages[-1][0], time.time())

    def seen_well(self, began: float) -> None:
        """A client's handshakes from then on were well; those of before its last outage say nothing."""
        if not self.outages or (self.outages[-1][1] is not None and self.outages[-1][1] < began):
            self.excused = False

    def saw(self, leaf: bytes, began: float) -> None:
        """Note what a handshake that began then has shown."""
        fingerprint = hashlib.sha256(leaf).hexdigest()
        if self.runs and self.runs[-1].fingerprint == fingerprint:
            self.runs[-1].last = began
            self.runs[-1].count += 1
        else:
            self.runs.append(Run(fingerprint, began, began))

    def seen_since(self, moment: float) -> set[str]:
        """The leaves of handshakes that began after a moment."""
        return {run.fingerprint for run in self.runs if run.last > moment}

    def seen_before(self, moment: float) -> set[str]:
        """The leaves of handshakes that began before a moment."""
        return {run.fingerprint for run in self.runs if run.first < moment}


class Listener:
    """A TLS listener of ours that serves exactly the pair that it is told to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._now: ssl.SSLContext | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self._choose

    def serve(self, chain: bytes, key: bytes) -> None:
        """Show this pair from the next handshake on."""
        file = self._directory / "pair.pem"  # Python's ssl reads files only
        file.touch(mode=0o600)
        file.write_bytes(chain + key)
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.load_cert_chain(file)
        file.unlink()
        self._now = fresh

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        if self._now is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._now
        return None


def by_secret(targets: Mapping[str, Target], secret: str) -> list[Target]:
    """The targets of one Secret."""
    return [target for target in targets.values() if target.secret == secret]
