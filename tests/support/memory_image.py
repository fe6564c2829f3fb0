"""What a process has in its memory: all that a core file of it would hold, read from /proc/PID/mem."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

AT_ONCE: Final = 1 << 24
OVERLAP: Final = 256
"""What a piece that is read begins with of the piece before: more than what is looked for."""

_MAPPED: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")


@dataclass(frozen=True)
class Region:
    """Memory that is mapped in one piece; ``name`` is the file's, or [heap], or nothing."""

    begin: int
    end: int
    name: str


def regions(pid: int) -> list[Region]:
    """Return what can be read and is not a file's alone: written to, or nobody's."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        mapped = _MAPPED.fullmatch(line)
        assert mapped is not None, line
        begin, end, rights, name = mapped.groups()
        if rights[0] == "r" and (rights[1] == "w" or not name.startswith("/")) and name != "[vvar]":
            found.append(Region(int(begin, 16), int(end, 16), name))
    return found


def read(pid: int) -> Iterator[tuple[Region, int, bytes]]:
    """Return region, address and content, piece by piece; what goes away meanwhile is left out."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for region in regions(pid):
            for begin in range(region.begin, region.end, AT_ONCE):
                start = max(begin - OVERLAP, region.begin)
                try:
                    memory.seek(start)
                    data = memory.read(min(begin + AT_ONCE, region.end) - start)
                except (OSError, OverflowError):
                    continue
                yield region, start, data
