"""One question to one DNS server, and what is in its answer."""

import errno
from dataclasses import dataclass
from typing import Final

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

UDP_TIMEOUT_S: Final = 2.0
TCP_TIMEOUT_S: Final = 5.0

PAYLOAD: Final = 1232
"""Bytes of an answer over UDP: more is cut on the way by some networks (DNS flag day 2020)."""

_NO_ROUTE: Final = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
"""This host does not speak the address's family: that says nothing of the server."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server at one of its addresses."""

    name: str
    host: str
    port: int

    def __str__(self) -> str:
        where = self.host if self.port == 53 else f"{self.host} port {self.port}"  # noqa: PLR2004
        return where if self.name == self.host else f"{self.name} ({where})"


class Silent(Exception):
    """A server gave no answer that can be used; the message says what came instead."""


class NoRoute(Silent):
    """This host cannot send to such an address at all."""


async def ask(
    server: Server, name: dns.name.Name, kind: str, *, recurse: bool = False, unchecked: bool = False
) -> dns.message.Message:
    """Ask over UDP, and over TCP where that was cut short or got no answer.

    ``unchecked``: a resolver shall answer also where DNSSEC says no (RFC 4035 section 3.2.2).

    Raises:
        Silent: no answer, or one that is none.
    """
    flags = dns.flags.RD if recurse else dns.flags.Flag(0)
    if unchecked:
        flags |= dns.flags.CD
    question = dns.message.make_query(name, kind, flags=flags, use_edns=0, payload=PAYLOAD)
    try:
        try:
            return await dns.asyncquery.udp(
                question,
                server.host,
                timeout=UDP_TIMEOUT_S,
                port=server.port,
                raise_on_truncation=True,
                # Somebody who guesses must not end the wait for who is asked.
                ignore_unexpected=True,
                ignore_errors=True,
            )
        except (dns.message.Truncated, dns.exception.Timeout, ConnectionError):
            return await dns.asyncquery.tcp(question, server.host, timeout=TCP_TIMEOUT_S, port=server.port)
    except dns.exception.Timeout as e:
        raise Silent("does not answer") from e
    except OSError as e:
        kind_of = NoRoute if e.errno in _NO_ROUTE else Silent
        raise kind_of(f"cannot be reached: {e.strerror or e}") from e
    except (EOFError, dns.exception.DNSException) as e:
        raise Silent(f"answers what is no answer: {str(e) or type(e).__name__}") from e


def authoritative(reply: dns.message.Message) -> bool:
    """Whether who answered serves the zone: a lame server says something else.

    SERVFAIL with an answer comes of a server that follows an alias and gets lost: the alias counts.
    """
    known = {dns.rcode.NOERROR, dns.rcode.NXDOMAIN, *([dns.rcode.SERVFAIL] if reply.answer else [])}
    return reply.rcode() in known and bool(reply.flags & dns.flags.AA)


def values(reply: dns.message.Message) -> frozenset[str]:
    """Return the TXT values in the answer, each put together of its parts (RFC 7208 section 3.3 does so)."""
    return frozenset(
        b"".join(record.strings).decode("ascii", "replace")
        for rrset in reply.answer
        if rrset.rdtype == dns.rdatatype.TXT
        for record in rrset
    )


def alias(reply: dns.message.Message, name: dns.name.Name) -> dns.name.Name | None:
    """Return what the name stands for, by a CNAME of its own or a DNAME above it; None: for itself."""
    for rrset in reply.answer:
        if rrset.rdtype == dns.rdatatype.CNAME and rrset.name == name:
            target: dns.name.Name = rrset[0].target
            return target
    for rrset in reply.answer:
        # Servers add the CNAME that follows from it (RFC 6672 section 3.1); this is for those that do not.
        if rrset.rdtype == dns.rdatatype.DNAME and name.is_subdomain(rrset.name) and name != rrset.name:
            return name.relativize(rrset.name).concatenate(rrset[0].target)
    return None


def zone_of(reply: dns.message.Message, name: dns.name.Name) -> dns.name.Name | None:
    """Return the zone that the answer to a question for the SOA is from."""
    for rrset in (*reply.answer, *reply.authority):
        if rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name):
            return rrset.name
    return None


def referral(reply: dns.message.Message, name: dns.name.Name) -> dns.name.Name | None:
    """Return the zone below that the server sends us on to."""
    for rrset in reply.authority:
        if rrset.rdtype == dns.rdatatype.NS and name.is_subdomain(rrset.name):
            return rrset.name
    return None
