"""What is said of one kind of log line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of line. ``fields`` are those that it may have beside the ones that each line has."""

    name: str
    level: str
    meaning: str
    fields: tuple[str, ...] = ()
