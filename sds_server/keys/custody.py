"""Which KEKs and versions are in use, and what rewrapping did; values that the API tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sds_server.model import KeyId

UNKNOWN: Final = "unknown"
"""In place of a KEK: a release before did not write whose it is."""

SAMPLE_MAX: Final = 1_000
"""Keys that are opened by chance in one call: seconds of a KMS at its pace."""

KekVersion = tuple[str, int | None]
"""A KEK's URI, and one of its versions; None: nobody knows which."""


@dataclass(frozen=True, slots=True)
class Kek:
    """A version of a KEK, and how many keys it has wrapped.

    ``current``: it wraps now; ``opens``: this replica has it. ``left_at``: when the last key was moved away
    from it, or destroyed, where there are none any more; ``needed_until``: when the last backup is gone that
    has such a key, None: nobody said for how long backups are kept.
    """

    kek_uri: str
    kek_version: int | None
    keys: int
    current: bool
    opens: bool
    left_at: datetime | None = None
    needed_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a drill of custody found: so many keys opened; ``refused``: why the others did not, by key."""

    opened: int
    refused: Mapping[KeyId, str]


@dataclass(frozen=True, slots=True)
class Custody:
    """Who wraps what. ``newest`` None: the KMS does not say now, for ``error``."""

    kek_uri: str
    newest: int | None
    keks: Sequence[Kek]
    error: str | None = None

    @property
    def behind(self) -> int:
        """How many keys another KEK has wrapped, or a version that is not the newest."""
        return sum(kek.keys for kek in self.keks if not kek.current)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step did. ``passed_over``: changed or destroyed meanwhile. ``refused``: why, by key.

    ``after``: where the next step begins; None: there is none.
    """

    rewrapped: int
    passed_over: int
    refused: Mapping[KeyId, str]
    after: KeyId | None


def listed(
    used: Mapping[KekVersion, int],
    left: Mapping[KekVersion, datetime],
    *,
    current: str,
    newest: int | None,
    opens: Sequence[str],
    backups_kept: timedelta | None = None,
) -> Sequence[Kek]:
    """Put together what is known of each version of a KEK: used, left, wrapping now, or only configured.

    ``backups_kept``: for how long; a backup from before a version was left needs that version.
    """
    left = {kek: at for kek, at in left.items() if kek not in used}
    found = {*used, *left} | (set() if newest is None else {(current, newest)})
    idle = {(uri, None) for uri in opens if uri not in {known for known, _ in found}}
    return [
        Kek(
            uri,
            version,
            used.get((uri, version), 0),
            current=uri == current and newest in {None, version},
            opens=uri in opens,
            left_at=left.get((uri, version)),
            needed_until=None
            if backups_kept is None or (uri, version) not in left
            else left[uri, version] + backups_kept,
        )
        for uri, version in sorted(found | idle, key=lambda kek: (kek[0], kek[1] or 0))
    ]
