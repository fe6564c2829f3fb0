"""DNS UPDATE (RFC 2136), signed by TSIG (RFC 8945): BIND, Knot, PowerDNS and other primaries."""

import asyncio
from collections.abc import Mapping
from typing import Final, Self

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from acme_engine.dns.checks import address
from acme_engine.dns.provider import TTL_S, scrub
from acme_engine.errors import DnsProviderError

TIMEOUT_S: Final = 10.0
"""For one exchange with one address of the server."""

_NOT_NOW: Final = {dns.rcode.SERVFAIL}
"""The zone is being loaded, or its disk is full."""


class Rfc2136:
    """Updates the zone at its primary server."""

    hashes = False

    def __init__(self, server: str, key: dns.tsig.Key, *, zone: str | None = None) -> None:
        """``zone`` None: it is found by asking the server for its SOA."""
        self._server = server
        self._key = key
        self._zone = None if zone is None else dns.name.from_text(zone)

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        key = dns.tsig.Key(settings["key_name"], settings["key_secret"], settings["key_algorithm"])
        return cls(settings["server"], key, zone=settings.get("zone"))

    async def add(self, name: str, value: str) -> None:
        """Add one record. The server keeps the others, and the same once."""
        update = await self._update(name)
        update.add(_owner(name), TTL_S, "TXT", f'"{value}"')
        await self._send(update, f"{name}: no value could be added")

    async def remove(self, name: str, value: str) -> None:
        """Remove one record; for what is not there the server has no error (RFC 2136 section 3.4.2.4)."""
        update = await self._update(name)
        update.delete(_owner(name), "TXT", f'"{value}"')
        await self._send(update, f"{name}: a value could not be removed")

    async def close(self) -> None:
        """Nothing is kept open: an update is a connection."""

    async def _update(self, name: str) -> dns.update.UpdateMessage:
        zone = self._zone or await self._find_zone(name)
        return dns.update.UpdateMessage(zone, keyring=self._key)

    async def _find_zone(self, name: str) -> dns.name.Name:
        """Ask for the SOA of the name: its owner is the zone, there or beside the denial."""
        owner, what = _owner(name), f"{name}: its zone could not be found"
        question = dns.message.make_query(owner, "SOA", flags=0)
        question.use_tsig(self._key)  # a server with views shows the key's
        answer = await self._send(question, what)
        for rrset in (*answer.answer, *answer.authority):
            if rrset.rdtype == dns.rdatatype.SOA and owner.is_subdomain(rrset.name):
                return rrset.name
        raise DnsProviderError(
            f"{what}: {self._server} has no zone for it",
            retryable=False,
            hint="name the primary server of the zone; if the name is an alias, of what it points to",
        )

    async def _send(self, message: dns.message.Message, what: str) -> dns.message.Message:
        """Exchange it over TCP with the first address that answers.

        Raises:
            DnsProviderError: none did, or it said no.
        """
        host, port = address(self._server)
        last: Exception | None = None
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port)
        except OSError as e:
            found, last = [], e
        for where in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found):
            try:
                reply = await dns.asyncquery.tcp(message, where, timeout=TIMEOUT_S, port=port)
            except (OSError, EOFError, dns.exception.Timeout) as e:
                last = e
                continue
            except dns.exception.DNSException as e:
                raise self._refused(what, _said(e), hint=_HINTS.get(type(e))) from e
            code = reply.rcode()
            if code not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                raise self._refused(what, dns.rcode.to_text(code), retryable=code in _NOT_NOW)
            return reply
        raise DnsProviderError(
            f"{what}: {self._server} does not answer: {_said(last)}",
            retryable=True,
            hint="check the server's address, and that it takes TCP from here",
        ) from last

    def _refused(
        self, what: str, words: str, *, retryable: bool = False, hint: str | None = None
    ) -> DnsProviderError:
        return DnsProviderError(f"{what}: {self._server} says {words}", retryable=retryable, hint=hint)


_HINTS: Final[Mapping[type[Exception], str]] = {
    dns.tsig.PeerBadKey: "the server does not know a key of this name and algorithm",
    dns.tsig.PeerBadSignature: "the key's secret is another one at the server",
    dns.tsig.PeerBadTime: "the clocks differ by more than TSIG allows: set ours, or the server's",
}


def _said(error: Exception | None) -> str:
    return scrub(str(error) or type(error).__name__, [])


def _owner(name: str) -> dns.name.Name:
    return dns.name.from_text(name)
