"""This process's memory: what is freed is overwritten, and nobody else gets to read the rest.

Python cannot wipe a key: `bytes` are immutable, and gRPC, protobuf and OpenSSL copy them. What can be had is
an allocator that overwrites whatever is freed, whoever allocated it. glibc is one when it is told so before
the process begins, so the process begins once more: see `scrub_on_free`. With glibc's thread caches on, or
with Python's own allocator, it does not work. How much of a thousand keys was left without it, and that none
is with it, `tests/integration/test_memory.py` finds out.

Not covered: what is in use, the kernel's buffers, swap, and root.
"""

import ctypes
import functools
import os
import resource
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALLOCATOR: Final = "PYTHONMALLOC"
TUNABLES: Final = "GLIBC_TUNABLES"

OPT_OUT: Final = "CERTVOY_MEMORY_SCRUB"
"""``off`` leaves the environment as it is, for who looks for a leak with tools of their own."""

PERTURB: Final = 165
"""The byte (inverted where it is allocated) that freed memory holds: any but zero."""

_OURS: Final = {"glibc.malloc.perturb": str(PERTURB), "glibc.malloc.tcache_count": "0"}

PR_SET_DUMPABLE: Final = 4  # prctl(2)

SIZES: Final = (48, 200, 700, 3_000, 40_000)
"""Of what is freed to see whether it is gone: one for each way in which allocators treat sizes. Keys have 48
bytes to 3 kB, an encoded Secret up to 40."""

EACH: Final = 32
"""Of each size: some may be given out again before they are looked at, never so many."""

_MARK: Final = 16
_OWN_MEMORY: Final = Path("/proc/self/mem")


@dataclass(frozen=True, slots=True)
class Scrub:
    """Whether freed memory is overwritten; ``reason``: why not."""

    works: bool
    reason: str | None = None


def scrub_on_free() -> None:
    """Begin this very process once more with an allocator that overwrites what is freed, unless it has.

    Called by the entry point, before anything is open. The process keeps its id, its arguments, its open
    files and the signal that its parent's death sends it: systemd and a parent see nothing of it.
    """
    environment = environment_for(os.environ)
    if environment is None or not sys.executable or _glibc() is None:
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves


def environment_for(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment in which freed memory is overwritten; None: this is one, or nobody wants it."""
    if environment.get(OPT_OUT) == "off":
        return None
    tunables = _tunables(environment)
    if environment.get(ALLOCATOR) == "malloc" and tunables.items() >= _OURS.items():
        return None
    told = ":".join(f"{name}={value}" for name, value in (tunables | _OURS).items())
    return {**environment, ALLOCATOR: "malloc", TUNABLES: told}


def guard() -> Scrub:
    """Have nobody read this process's memory, as far as that is ours to say; log how things stand.

    What told the allocator is taken out of the environment: a program that we start has its own way.
    """
    from sds_server.log import get  # noqa: PLC0415 - takes 0.3 s, which `scrub_on_free` would take twice

    _log = get("memory")
    scrub = look()
    _tidy(os.environ)
    missing = {} if scrub.works else {"scrub on free": scrub.reason}
    try:
        _forbid_dumps()
    except OSError as e:
        missing["no core"] = e.strerror
    for what, reason in missing.items():
        _log.warning("memory.unguarded", what=what, reason=reason, hint="see SECURITY.md, Memory")
    _log.info("memory.guarded", scrub=scrub.works, dumps="no core" in missing)
    return scrub


@functools.cache
def look() -> Scrub:
    """Free something, and look whether it is gone; once a process, before `guard` shuts the memory.

    Asks the memory itself: what the environment says is only what was wanted.
    """
    try:
        left = _left_of_the_freed()
    except OSError as e:
        return Scrub(works=False, reason=f"{_OWN_MEMORY}: {e.strerror}")
    if not left:
        return Scrub(works=True)
    if _glibc() is None:
        return Scrub(works=False, reason="the C library is not glibc, and cannot overwrite what is freed")
    if os.environ.get(OPT_OUT) == "off":
        return Scrub(works=False, reason=f"{OPT_OUT} is off")
    return Scrub(works=False, reason="it began without the allocator's settings")


def _left_of_the_freed() -> int:
    """Return how many of the objects that were freed can still be read.

    All that it needs to look is allocated before: it must not take the place of what it looks for.

    Raises:
        OSError: this process's memory cannot be read.
    """
    header = sys.getsizeof(b"") - 1
    objects = [os.urandom(size) for size in SIZES for _ in range(EACH)]
    marks = [kept[-_MARK:] for kept in objects]
    places = [id(kept) + header + len(kept) - _MARK for kept in objects]
    seen = [[bytearray(_MARK)] for _ in objects]
    with _OWN_MEMORY.open("rb", buffering=0) as memory:
        descriptor = memory.fileno()
        os.preadv(descriptor, seen[0], places[0])
        if seen[0][0] != marks[0]:
            raise OSError(0, "does not show what is in memory")
        seen[0][0][:] = bytes(_MARK)
        objects.clear()
        for place, found in zip(places, seen, strict=True):
            try:
                os.preadv(descriptor, found, place)
            except OSError:  # given back to the kernel
                continue
    return sum(found[0] == mark for found, mark in zip(seen, marks, strict=True))


def _forbid_dumps() -> None:
    """No core file, no debugger and no /proc/PID/mem for others than root.

    Raises:
        OSError: the kernel does not let us.
    """
    if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        except ValueError as e:
            raise OSError(0, str(e)) from e
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # For a limit alone, a core that is piped to a program of the host's would be written all the same.
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _tidy(environment: MutableMapping[str, str]) -> None:
    """Take out what `scrub_on_free` has put in."""
    others = {name: value for name, value in _tunables(environment).items() if name not in _OURS}
    environment.pop(TUNABLES, None)
    if others:
        environment[TUNABLES] = ":".join(f"{name}={value}" for name, value in others.items())
    if environment.get(ALLOCATOR) == "malloc":
        del environment[ALLOCATOR]


def _tunables(environment: Mapping[str, str]) -> dict[str, str]:
    said = environment.get(TUNABLES, "").split(":")
    return {name: value for name, is_one, value in (entry.partition("=") for entry in said) if is_one}


def _glibc() -> str | None:
    """Return the version of glibc; None: the C library is another."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError, AttributeError):
        return None
