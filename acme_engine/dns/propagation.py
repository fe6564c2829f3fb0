"""Whether a value is served: asked of every server of its zone, until all have it.

A CA asks whichever server it likes, and often several from several places: one that does not have the value
yet is one chance of failure. One that does not answer at all is none, as a resolver then asks the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import dns.name

from acme_engine.dns.servers import NoRoute, Server, Silent, ask, values

POLLS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
"""Between looks; the last one repeats."""

SILENT_FOR_S: Final = 60.0
"""A server that has not answered for so long is passed over where others have the value."""


class Look(Enum):
    """What a server shows."""

    THERE = auto()
    MISSING = auto()
    SILENT = auto()
    NO_ROUTE = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server showed, and in words."""

    look: Look
    words: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the value counts as served, and why, or why not."""

    served: bool
    reason: str


def decide(seen: Mapping[Server, Seen], *, waited_s: float) -> Verdict:
    """Say whether a value that these servers show so can be relied on. Pure."""
    there = [server for server, its in seen.items() if its.look is Look.THERE]
    missing = [f"{server} {its.words}" for server, its in seen.items() if its.look is Look.MISSING]
    silent = [f"{server} {its.words}" for server, its in seen.items() if its.look is Look.SILENT]
    if missing:
        return Verdict(served=False, reason="; ".join(missing + silent))
    if not there:
        others = [f"{server} {its.words}" for server, its in seen.items()]
        return Verdict(served=False, reason="; ".join(others) or "there is no server to ask")
    if not silent:
        return Verdict(served=True, reason=f"all servers have it: {len(there)}")
    if waited_s >= SILENT_FOR_S:
        return Verdict(served=True, reason=f"{len(there)} have it; passed over: {'; '.join(silent)}")
    return Verdict(served=False, reason="; ".join(silent))


async def served(
    name: str,
    value: str,
    servers: Iterable[Server],
    *,
    limit_s: float,
    sleep: Callable[[float], Awaitable[None]],
    monotonic: Callable[[], float],
    recurse: bool = False,
) -> Verdict:
    """Wait until the servers show this very value at the name, or ``limit_s`` is over; say which.

    Servers that have shown it are not asked again. ``recurse``: they are resolvers.
    """
    owner = dns.name.from_text(name)
    seen = {server: Seen(Look.SILENT, "was not asked") for server in servers}
    started, polls = monotonic(), 0
    while True:
        waiting = [server for server, its in seen.items() if its.look is not Look.THERE]
        looks = await asyncio.gather(*(_look(server, owner, value, recurse=recurse) for server in waiting))
        seen.update(zip(waiting, looks, strict=True))
        waited_s = monotonic() - started
        verdict = decide(seen, waited_s=waited_s)
        pause_s = POLLS_S[min(polls, len(POLLS_S) - 1)]
        if verdict.served or waited_s + pause_s > limit_s:
            return verdict
        await sleep(pause_s)
        polls += 1


async def _look(server: Server, owner: dns.name.Name, value: str, *, recurse: bool) -> Seen:
    try:
        reply = await ask(server, owner, "TXT", recurse=recurse)
    except NoRoute as e:
        return Seen(Look.NO_ROUTE, str(e))
    except Silent as e:
        return Seen(Look.SILENT, str(e))
    found = values(reply)
    if value in found:
        return Seen(Look.THERE, "has it")
    others = f", but {len(found)} others" if found else ""
    return Seen(Look.MISSING, f"does not have it{others}")
