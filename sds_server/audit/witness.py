"""Checkpoints that were seen, in a file out of the database's reach: another past, or a shorter, is noticed.

One JSON object a line: ``{"at": ..., "note": ...}``, or, where somebody has accepted another past,
``{"at": ..., "fork": {"size": ..., "witnessed": ...}}``. Each line is synced before anything builds on it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sds_server.audit import checkpoint
from sds_server.audit.checkpoint import Checkpoint
from sds_server.errors import AuditBroken, Unavailable

BYTES_MAX: Final = 8 * 2**20
"""20,000 checkpoints. Beyond that every second line of the older half goes: what is left proves as much, less
finely."""

LINE_BYTES_MAX: Final = 8192
"""Of what was broken off: a line has 500."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file holds: the notes that count, the newest last; and how many somebody has given up."""

    notes: tuple[str, ...] = ()
    given_up: int = 0

    @property
    def last(self) -> Checkpoint | None:
        """The newest checkpoint."""
        return checkpoint.parse(self.notes[-1]) if self.notes else None


def read(path: Path, *, until: datetime | None = None) -> Seen:
    """Return what was witnessed, to a moment or to the end; nothing where there is no file.

    Raises:
        AuditBroken: a line is none of ours.
        Unavailable: the file cannot be read.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Seen()
    except (OSError, UnicodeDecodeError) as e:
        raise _unwritable(path, e) from e
    # What does not end in a line's end was being written when the machine stopped: nothing was built on it.
    return seen(text.split("\n")[:-1], name=str(path), until=until)


def seen(lines: Sequence[str], *, name: str, until: datetime | None = None) -> Seen:
    """Return what these lines say, to a moment or to the end; ``name`` says whose they are.

    Raises:
        AuditBroken: a line is none of ours.
    """
    notes: list[str] = []
    given_up = 0
    for number, line in enumerate(lines, start=1):
        if not line:
            continue  # of a line that was broken off
        try:
            found = json.loads(line)
            if until is not None and datetime.fromisoformat(found["at"]) > until:
                break
            if "fork" in found:
                kept = [note for note in notes if checkpoint.parse(note).size <= found["fork"]["size"]]
                given_up += len(notes) - len(kept)
                notes = kept
            else:
                checkpoint.parse(found["note"])
                notes.append(found["note"])
        except (ValueError, KeyError, TypeError, AttributeError, AuditBroken) as e:
            raise AuditBroken(
                f"{name}, line {number}: it is no checkpoint",
                hint="restore the file from a copy; without it nobody knows what was witnessed here",
            ) from e
    return Seen(tuple(notes), given_up)


class Witness:
    """The file of one replica."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            AuditBroken: a line is none of ours.
            Unavailable: the file cannot be read.
        """
        self.path = path
        self.last = read(path).last

    def append(self, note: str, *, at: datetime) -> None:
        """Keep a checkpoint.

        Raises:
            Unavailable: the file cannot be written.
        """
        self._write({"at": at.isoformat(), "note": note})
        self.last = checkpoint.parse(note)

    def accept(self, *, size: int, at: datetime) -> None:
        """Note that somebody has accepted a past that goes on from ``size`` leaves.

        Raises:
            Unavailable: the file cannot be written.
        """
        witnessed = 0 if self.last is None else self.last.size
        self._write({"at": at.isoformat(), "fork": {"size": size, "witnessed": witnessed}})
        self.last = read(self.path).last

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - LINE_BYTES_MAX))
                tail = file.read()
                # What a stopped machine broke off goes: nothing was built on it.
                end -= len(tail) - (tail.rfind(b"\n") + 1)
                file.truncate(end)
                file.seek(end)
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._thin()
        except OSError as e:
            raise _unwritable(self.path, e) from e

    def _thin(self) -> None:
        if self.path.stat().st_size <= BYTES_MAX:
            return
        lines = self.path.read_bytes().splitlines()
        half = len(lines) // 2
        kept = [line for nth, line in enumerate(lines) if nth >= half or nth % 2 == 0 or b'"fork"' in line]
        new = self.path.with_name(f".{self.path.name}.new")
        with new.open("wb") as file:
            file.write(b"\n".join(kept) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


def _unwritable(path: Path, error: Exception) -> Unavailable:
    why = getattr(error, "strerror", None) or str(error)
    return Unavailable(
        f"audit.checkpoints {path}: {why}",
        hint="let certvoy's user read and write it: nothing more is sealed until it can be witnessed",
    )
