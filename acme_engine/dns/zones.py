"""Where the record of a name is: aliases followed to their end, the zone by its SOA, all of its servers.

A recursive resolver that is asked for a name that is not there yet remembers for minutes that it is not, and
may be the one that the CA asks. So ours is asked for nothing but zones that exist and the addresses of their
servers; for the name itself those servers are asked.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from acme_engine.dns.checks import DNS_PORT, address
from acme_engine.dns.servers import Server, Silent, alias, ask, authoritative, referral, zone_of
from acme_engine.errors import Misconfigured, ZoneNotFound

_HINT: Final = "name each as host:port, [address]:port or a host alone"

MAX_ALIASES: Final = 10
MAX_REFERRALS: Final = 10
MAX_SERVERS: Final = 26
"""Addresses of a zone's servers that are asked: as many as the root has."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is: ``owner`` in ``zone``, which all of ``servers`` serve; without a final dot."""

    owner: str
    zone: str
    servers: tuple[Server, ...]


class Zones:
    """Finds places. Nothing is remembered: an alias may be changed between two orders."""

    def __init__(
        self, *, resolvers: Sequence[str] = (), servers: Sequence[str] = (), port: int = DNS_PORT
    ) -> None:
        """``resolvers``: recursive ones, as host:port; by default those of this host.

        ``servers``: who serves the zones, as host:port, where their NS records do not say it from here:
        hidden primaries, split horizons. ``port`` is that of servers that NS records name.

        Raises:
            Misconfigured: one of them is no host:port.
        """
        self._resolvers = _checked("resolvers", resolvers)
        self._servers = _checked("servers", servers)
        self._port = port

    async def place(self, name: str) -> Place:
        """Return where the record of a name is.

        Raises:
            ZoneNotFound: nobody says which zone it is in, or its aliases do not end.
        """
        owner = dns.name.from_text(name)
        seen = [owner]
        while True:
            zone, servers, target = await self._look(owner)
            if target is None:
                return Place(_text(owner), _text(zone), servers)
            if target in seen or len(seen) > MAX_ALIASES:
                chain = " -> ".join(map(_text, (*seen, target)))
                raise ZoneNotFound(f"{name}: its aliases do not end: {chain}", hint="mend the CNAME records")
            seen.append(target)
            owner = target

    async def resolvers(self) -> tuple[Server, ...]:
        """Return the recursive resolvers.

        Raises:
            ZoneNotFound: there is none.
        """
        return await _addresses(self._resolvers or await asyncio.to_thread(_of_this_host))

    async def _look(
        self, owner: dns.name.Name
    ) -> tuple[dns.name.Name, tuple[Server, ...], dns.name.Name | None]:
        """Return the zone of a name, its servers, and what the name is an alias of."""
        zone = None if self._servers else await self._enclosing(owner)
        for _ in range(MAX_REFERRALS):
            servers = await (self._serving(zone) if zone is not None else _addresses(self._servers))
            reply = await _first_word(owner, servers)
            if authoritative(reply):
                found = zone_of(reply, owner) or zone or owner.parent()
                if found != zone and not self._servers and alias(reply, owner) is None:
                    servers = await self._serving(found)  # a zone below that the same servers have
                return found, servers, alias(reply, owner)
            below = referral(reply, owner)
            if below is None or self._servers or (zone is not None and not below.is_subdomain(zone)):
                break
            zone = below
        raise ZoneNotFound(f"{_text(owner)}: no server says which zone it is in")

    async def _enclosing(self, owner: dns.name.Name) -> dns.name.Name:
        """Return a zone around the name that surely exists: of its last two labels, or their parent's."""
        suffix = dns.name.Name(owner.labels[-3:])
        reply = await self._recursive(suffix, "SOA")
        found = zone_of(reply, suffix)
        if found is None:
            raise ZoneNotFound(f"{_text(owner)}: the resolver knows no zone {_text(suffix)}")
        return found

    async def _serving(self, zone: dns.name.Name) -> tuple[Server, ...]:
        """Return every address of every server that the zone's NS records name."""
        reply = await self._recursive(zone, "NS")
        names = sorted(
            record.target for rrset in reply.answer if rrset.rdtype == dns.rdatatype.NS for record in rrset
        )
        found = [
            Server(_text(name), record.address, self._port)
            for name in names
            for kind in ("A", "AAAA")
            for rrset in (await self._recursive(name, kind)).answer
            if dns.rdatatype.to_text(rrset.rdtype) == kind
            for record in rrset
        ]
        if not found:
            raise ZoneNotFound(f"{_text(zone)}: the resolver knows no servers of this zone")
        return tuple(found[:MAX_SERVERS])

    async def _recursive(self, name: dns.name.Name, kind: str) -> dns.message.Message:
        """Ask the resolvers in turn, as a host's stub does."""
        words = []
        for resolver in await self.resolvers():
            try:
                reply = await ask(resolver, name, kind, recurse=True)
            except Silent as e:
                words.append(f"{resolver} {e}")
                continue
            if reply.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                return reply
            words.append(f"{resolver} says {dns.rcode.to_text(reply.rcode())}")
        raise ZoneNotFound(f"{_text(name)} {kind}: {'; '.join(words)}")


async def _first_word(owner: dns.name.Name, servers: Iterable[Server]) -> dns.message.Message:
    """Return the first answer that is of use: authoritative, or a referral."""
    words = []
    for server in servers:
        try:
            reply = await ask(server, owner, "SOA")
        except Silent as e:
            words.append(f"{server} {e}")
            continue
        if authoritative(reply) or referral(reply, owner) is not None:
            return reply
        words.append(f"{server} says {dns.rcode.to_text(reply.rcode())}")
    raise ZoneNotFound(f"{_text(owner)}: its servers do not answer for it: {'; '.join(words)}")


async def _addresses(named: Sequence[str]) -> tuple[Server, ...]:
    """Return each address of each host."""
    found, words = [], []
    for text in named:
        host, port = address(text)
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port)
        except OSError as e:
            words.append(f"{host}: {e.strerror or e}")
            continue
        found += [Server(host, str(sockaddr[0]), port) for *_, sockaddr in infos]
    if not found:
        raise ZoneNotFound(f"no server can be asked: {'; '.join(words) or 'none is named'}")
    return tuple(dict.fromkeys(found))


def _checked(what: str, named: Sequence[str]) -> tuple[str, ...]:
    if isinstance(named, str):
        raise Misconfigured(f"{what} of DNS: {named!r} is one text, where a list is wanted", hint=_HINT)
    for text in named:
        try:
            address(text)
        except ValueError as e:
            raise Misconfigured(f"{what} of DNS: {text!r}: {e}", hint=_HINT) from e
    return tuple(named)


def _of_this_host() -> tuple[str, ...]:
    try:
        return tuple(str(server) for server in dns.resolver.Resolver().nameservers)
    except dns.resolver.NoResolverConfiguration:
        return ()


def _text(name: dns.name.Name) -> str:
    return name.canonicalize().to_text(omit_final_dot=True)
