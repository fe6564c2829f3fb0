"""Where an address leads. A host's name may have several addresses, and at each of them somebody is served.

So each of them is looked at, and all must show the same: who asked one of them would prove the others by it.
Where HTTP/3 is served too, each is looked at over TCP and over QUIC. A family of addresses (IPv4, IPv6) where
nobody listens, or that nothing leads to from here, does not count where the other one answers: clients do as
much (RFC 8305). One that only one of TCP and QUIC is silent at counts.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sds_server.targets.probe import NobodyThere, ProbeFailed, Way, served_fingerprint, split

PLACES_MAX: Final = 32
"""More than that are a fleet, and each of them a target of its own."""

AT_ONCE: Final = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """A leaf, by the lower-case hex SHA-256, and where it was seen."""

    fingerprint: str
    place: str


async def served(
    address: Way | str, server_name: str, *, wanted: str | None = None, before: str | None = None
) -> Served:
    """Return what ``address`` (``host:port``) serves for an SNI: ``wanted`` only if every place of it does.

    Else the leaf of the first that serves another, also where others fail: who fails hides nobody. Leaves of
    several key types are as `served_fingerprint` has them.

    Raises:
        ProbeFailed: at one of them no leaf was seen, and at no other another than ``wanted``.
    """
    looks = await shown(
        address, lambda way: served_fingerprint(way, server_name, wanted=wanted, before=before)
    )
    others = {place: leaf for place, leaf in seen_of(looks).items() if leaf != wanted}
    leaves = others if others and wanted is not None else all_of(looks)
    place, leaf = next(iter(leaves.items()))
    return Served(leaf, place)


async def found(address: str, look: Callable[[str], Awaitable[T]]) -> Mapping[str, T | ProbeFailed]:
    """Look at each place; returns what was found at those that count, or why nothing was.

    Raises:
        ProbeFailed: the name leads nowhere, or to too many.
    """
    return await shown(address, lambda way: look(way.address))


async def shown(address: Way | str, look: Callable[[Way], Awaitable[T]]) -> Mapping[str, T | ProbeFailed]:
    """Look at each place by each of its ways; returns as `found`, by place and way."""
    address = Way.of(address)
    places = await _places(address.address)
    ways = [way for place in places for way in address.at(place).each()]
    turn = asyncio.Semaphore(AT_ONCE)

    async def by(way: Way) -> T | ProbeFailed:
        async with turn:
            try:
                return await look(way)
            except ProbeFailed as e:
                return e

    looks = counted(dict(zip(map(str, ways), await asyncio.gather(*map(by, ways)), strict=True)))
    if places == [address.address]:
        return looks
    return {
        f"{address} at {place}": ProbeFailed(f"{address} at {each}")
        if isinstance(each, ProbeFailed)
        else each
        for place, each in looks.items()
    }


def all_of(looks: Mapping[str, T | ProbeFailed]) -> Mapping[str, T]:
    """Return what was found, if something was at every place. Pure.

    Raises:
        ProbeFailed: the first that there is.
    """
    for each in looks.values():
        if isinstance(each, ProbeFailed):
            raise each
    return seen_of(looks)


def seen_of(looks: Mapping[str, T | ProbeFailed]) -> Mapping[str, T]:
    """Return what was found, wherever something was. Pure."""
    return {place: each for place, each in looks.items() if not isinstance(each, ProbeFailed)}


def counted(found: Mapping[str, T | ProbeFailed]) -> Mapping[str, T | ProbeFailed]:
    """Return what counts of looks at every place: all, but for a family that nobody is at. Pure."""
    there = {_is_v6(place) for place, each in found.items() if not isinstance(each, NobodyThere)}
    return {place: each for place, each in found.items() if _is_v6(place) in there} or found


def leads_to_one(address: str) -> bool:
    """Whether ``host:port`` is a place itself, and no name that may lead to several. Pure."""
    host, _ = split(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _places(address: str) -> Sequence[str]:
    host, port = split(address)
    if leads_to_one(address):
        return [address]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as e:  # a ValueError: a host that is no DNS name
        raise ProbeFailed(f"{address}: {e}") from None
    # In one order: a name that is answered in turns would have another reason each time.
    places = sorted({_place(str(sockaddr[0]), port) for *_, sockaddr in found})
    if len(places) > PLACES_MAX:
        raise ProbeFailed(f"{address} leads to {len(places)} addresses: make each a target of its own")
    return places


def _place(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _is_v6(place: str) -> bool:
    return place.startswith("[")
