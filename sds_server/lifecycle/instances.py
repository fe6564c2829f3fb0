"""Instances: the live streams of one Target that want a Secret, and what they say together. Pure.

Two proxies behind one identity and node id are one Target, and neither may hide the other: what is accepted
is what every one of them has accepted, and a refusal stays until who refused says something newer, or leaves.
The same rule holds for the streams of a replica and for the replicas of a Target.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Instance:
    """A stream, or all the streams of a replica, and the generations that it spoke of last.

    ``of``: the stream's token, or the replica's. ``refused``: what it has taken nothing newer than since.
    """

    of: str
    streams: int = 1
    accepted: int | None = None
    refused: int | None = None

    def accept(self, generation: int) -> "Instance":
        """It said yes; of one generation what was said last counts."""
        refused = self.refused if self.refused is not None and self.refused > generation else None
        return replace(self, accepted=generation, refused=refused)

    def refuse(self, generation: int) -> "Instance":
        """It said no."""
        return replace(
            self, accepted=None if self.accepted == generation else self.accepted, refused=generation
        )


Instances = tuple[Instance, ...]


def together(of: str, instances: Iterable[Instance]) -> Instance:
    """Roll them up to one: the least that is accepted, None while one has accepted nothing."""
    some = tuple(instances)
    accepted = [item.accepted for item in some if item.accepted is not None]
    return Instance(
        of,
        streams=sum(item.streams for item in some),
        accepted=min(accepted) if accepted and len(accepted) == len(some) else None,
        refused=max((item.refused for item in some if item.refused is not None), default=None),
    )


def find(instances: Instances, of: str) -> Instance | None:
    """Return the one of this token."""
    return next((item for item in instances if item.of == of), None)


class Living:
    """The streams of one Target that want one Secret, added up as they speak.

    A stream that has asked for ten thousand names below one wildcard counts as ten thousand: what they say
    together is known without a look at each.
    """

    def __init__(self) -> None:
        self._by: dict[str, Instance] = {}
        self._accepted: Counter[int] = Counter()
        self._refused: Counter[int] = Counter()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by)

    def find(self, of: str) -> Instance | None:
        """Return the one of this token."""
        return self._by.get(of)

    def put(self, one: Instance) -> None:
        """Take this one in, new or changed."""
        self.remove(one.of)
        self._by[one.of] = one
        _add(self._accepted, one.accepted, 1)
        _add(self._refused, one.refused, 1)

    def remove(self, of: str) -> None:
        """Go on without this one, if it is there."""
        one = self._by.pop(of, None)
        if one is not None:
            _add(self._accepted, one.accepted, -1)
            _add(self._refused, one.refused, -1)

    def together(self, of: str) -> Instance:
        """As the function: what all of them say, as one of this token."""
        all_accept = bool(self._by) and self._accepted.total() == len(self._by)
        return Instance(
            of,
            streams=len(self._by),
            accepted=min(self._accepted) if all_accept else None,
            refused=max(self._refused, default=None),
        )


def _add(counts: Counter[int], generation: int | None, change: int) -> None:
    """Count a generation; only those that somebody speaks of are kept, mostly one or two."""
    if generation is not None:
        counts[generation] += change
        if not counts[generation]:
            del counts[generation]


def freed(before: Instance, after: Instance) -> int | None:
    """Return the generation that all have accepted now that one is gone which had not; None: no newer one."""
    if after.accepted is not None and after.accepted > (before.accepted or 0):
        return after.accepted
    return None
