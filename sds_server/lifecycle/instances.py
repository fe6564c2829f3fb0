"""Instances: the live streams of one Target that want a Secret, and what they say together. Pure.

Two proxies behind one identity and node id are one Target, and neither may hide the other: what is accepted
is what every one of them has accepted, and a refusal stays until who refused says something newer, or leaves.
The same rule holds for the streams of a replica and for the replicas of a Target.
"""

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


def put(instances: Instances, one: Instance) -> Instances:
    """Return them with this one, new or changed."""
    return (*without(instances, one.of), one)


def without(instances: Instances, of: str) -> Instances:
    """Return those that are left without this one."""
    return tuple(item for item in instances if item.of != of)


def freed(before: Instance, after: Instance) -> int | None:
    """Return the generation that all have accepted now that one is gone which had not; None: no newer one."""
    if after.accepted is not None and after.accepted > (before.accepted or 0):
        return after.accepted
    return None
