"""Before anything is ordered: would a CA find what it looks for? Every finding says how to mend it.

It looks from where it runs. What a CA sees from outside may differ, by a firewall or split DNS: a finding is
a reason to look, and no proof.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import aiohttp
import dns.exception
import dns.name
import dns.rcode
import dns.rdatatype
from yarl import URL

from acme_engine import caa
from acme_engine.dns.servers import Server, Silent, ask
from acme_engine.dns.zones import Place, Zones
from acme_engine.dns_persist01 import look
from acme_engine.dns_records import (
    account_record_name,
    persist_record_name,
    persist_record_text,
    zone_file_line,
)
from acme_engine.errors import ZoneNotFound
from acme_engine.names import normalise
from acme_engine.selfcheck import MAX_BODY, REDIRECTS_MAX, TIMEOUT_S

HTTP_PORT: Final = 80
MAX_ADDRESSES: Final = 8
SHOWN: Final = 80
TO_US: Final = "send /.well-known/acme-challenge/ of port 80 to certvoy's http01.listen"


ANSWER: Final = "see with `delv NAME` whether the zone's servers answer and its DNSSEC signatures are valid"
_ANSWERS: Final = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})


ENDS_SOON: Final = timedelta(days=30)
"""A permission that ends within it is over before the next renewal of most certificates."""


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw, and what to do about it; ``fix`` is empty where all is well."""

    check: str
    verdict: Verdict
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """An HTTP-01 challenge that somebody answers already: the responder is to be found through the name."""

    token: str
    key_authorization: str
    port: int = HTTP_PORT


@dataclass(frozen=True, slots=True)
class Ca:
    """What the checks must know of a CA; ``public``: it looks from the Internet.

    ``account``: our account's URL there, once there is one.
    """

    name: str
    identities: tuple[str, ...]
    public: bool
    account: str | None = None


async def examine(
    name: str,
    *,
    ca: Ca,
    method: str,
    question: Question | None,
    zones: Zones,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Sequence[Finding]:
    """Look as the CA will. ``question`` is asked where the method is HTTP-01.

    Raises:
        BadIdentifier: it is no name that a certificate can have.
    """
    wanted = normalise(name)
    host = wanted.removeprefix("*.")
    if method.startswith("dns-"):
        authorized, placed = await asyncio.gather(
            _authorization(wanted, ca=ca, method=method, zones=zones),
            _zone(wanted, method, ca, zones, clock()),
        )
        return [authorized, placed]
    if wanted != host:
        # Its address is beside the point: no answer there would prove it.
        without = Finding(
            "wildcard",
            Verdict.FAILED,
            f"{ca.name} is asked by {method}, and only DNS proves {wanted}",
            f"give issuer {ca.name} a DNS provider",
        )
        return [without, await _authorization(wanted, ca=ca, method=method, zones=zones)]
    authorized, (addresses, found) = await asyncio.gather(
        _authorization(wanted, ca=ca, method=method, zones=zones), _addresses(host, ca=ca, zones=zones)
    )
    findings = [authorized, found]
    if question is not None and method == "http-01":
        inside = _Sockets(addresses, public=ca.public)
        findings += await asyncio.gather(*(_answer(host, address, question, inside) for address in addresses))
    return findings


async def may_issue(name: str, *, ca: Ca, method: str, zones: Zones) -> Finding:
    """Look at CAA alone, for a CA that is asked only where another does not deliver.

    Raises:
        BadIdentifier: it is no name that a certificate can have.
    """
    found = await _authorization(normalise(name), ca=ca, method=method, zones=zones)
    return replace(found, check=f"caa of {ca.name}")


async def _addresses(host: str, *, ca: Ca, zones: Zones) -> tuple[Sequence[str], Finding]:
    """Resolve the name as a CA does; IPv6 first, as most ask."""
    found: list[str] = []
    words: list[str] = []
    for kind in ("AAAA", "A"):
        try:
            found += await _records(host, kind, zones)
        except _NotAnswered as e:
            words.append(str(e))
    if not found:
        return (), Finding(
            "address",
            Verdict.FAILED,
            "; ".join(dict.fromkeys(words)) or f"{host} has no address",
            # To add one would mend nothing where the answer is there, and is not believed.
            ANSWER
            if any("SERVFAIL" in said for said in words)
            else f"add an A or AAAA record for {host} that leads to your proxy",
        )
    seen = f"{host} is {', '.join(found)}"
    inside = [address for address in found if not ipaddress.ip_address(address).is_global]
    if ca.public and inside:
        return found[:MAX_ADDRESSES], Finding(
            "address",
            Verdict.FAILED if len(inside) == len(found) else Verdict.WARNING,
            seen,
            f"the CA cannot reach {', '.join(inside)}: publish a public address, or use DNS-01",
        )
    return found[:MAX_ADDRESSES], Finding("address", Verdict.OK, seen)


async def _authorization(wanted: str, *, ca: Ca, method: str, zones: Zones) -> Finding:
    """Find the CAA records that count (RFC 8659 section 3), and judge them."""
    name = dns.name.from_text(wanted.removeprefix("*."))
    while len(name.labels) > 1:
        at = name.to_text(omit_final_dot=True)
        try:
            records = await _caa(at, zones)
        except _NotAnswered as e:
            # A CA that gets no answer must not issue, whatever the answer would have been.
            return Finding(
                "caa",
                Verdict.FAILED,
                f"{at} CAA: {e}",
                f"have the zone's servers answer for CAA, if only empty: {ANSWER}",
            )
        if records:
            said = caa.judge(
                records,
                wildcard=wanted.startswith("*."),
                identities=ca.identities,
                method=method,
                account_url=ca.account,
            )
            if said.allowed:
                return Finding("caa", Verdict.OK, f"{at}: {said.reason}")
            record = f'{at}. CAA 0 issue "{ca.identities[0]}"' if ca.identities else "a record that it knows"
            private = not ca.public and not ca.identities
            return Finding(
                "caa",
                Verdict.WARNING if private else Verdict.FAILED,
                f"{at}: {said.reason}",
                "an internal CA may ignore CAA: ask its operator" if private else f"add {record}",
            )
        name = name.parent()
    return Finding("caa", Verdict.OK, "no CAA record: any CA may issue")


class _Inside(OSError):
    """A redirect leads to where no CA goes."""


class _Sockets:
    """Makes a socket for the very address that is connected to, if the CA could follow there.

    The name's owner chooses where a redirect leads, and we stand where they do not: this host, its
    neighbours and its cloud's metadata are for nobody to reach through us. The name's own addresses are asked
    for one path, whatever they are; of a private CA, so are other private ones by a redirect.
    """

    def __init__(self, own: Sequence[str], *, public: bool) -> None:
        self._own = {ipaddress.ip_address(address) for address in own}
        self._public = public

    def __call__(self, to: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = to
        if not self._may_lead_to(str(address[0]).partition("%")[0]):
            raise _Inside(None, "a redirect leads to an address where no CA goes")
        return socket.socket(family, kind, protocol)

    def _may_lead_to(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False  # the HTTP client takes more for an address than is one
        if address.is_link_local:
            return False
        if address in self._own:
            return True
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified:
            return False
        return address.is_global or (address.is_private and not self._public)


async def _answer(host: str, address: str, question: Question, sockets: _Sockets) -> Finding:
    """Ask one address for the token, with the name as Host, as the CA does."""
    at = f"[{address}]" if ":" in address else address
    url = URL(f"http://{at}:{question.port}/.well-known/acme-challenge/{question.token}")
    port = "" if question.port == HTTP_PORT else f":{question.port}"
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=sockets),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                auto_decompress=False,
            ) as session,
            session.get(
                url, headers={"Host": f"{host}{port}"}, max_redirects=REDIRECTS_MAX, ssl=False
            ) as response,
        ):
            body = (await response.content.read(MAX_BODY)).decode("ascii", "replace").rstrip()
            seen = _heard(question, response.status, body, "" if response.url == url else f"{response.url}")
    except aiohttp.TooManyRedirects:
        seen = ("redirects that do not end", TO_US)
    except TimeoutError:
        seen = (f"no answer in {TIMEOUT_S:g} s", f"let port {question.port} through the firewall")
    except (aiohttp.ClientError, ValueError) as e:
        inside = isinstance(e, aiohttp.ClientConnectorError) and isinstance(e.os_error, _Inside)
        words = e.os_error.strerror if isinstance(e, aiohttp.ClientConnectorError) else str(e)
        seen = (
            f"port {question.port}: {words or type(e).__name__}",
            TO_US if inside else f"listen on port {question.port} there, or take the address out of DNS",
        )
    return Finding(f"http-01 at {address}", Verdict.FAILED if seen[1] else Verdict.OK, *seen)


def _heard(question: Question, status: int, body: str, came_to: str) -> tuple[str, str]:
    """Return what an answer is worth: what was seen, and how to mend it."""
    redirected = f", after a redirect to {came_to}" if came_to else ""
    if status != HTTPStatus.OK:
        return f"status {status}{redirected}", TO_US
    if body != question.key_authorization:
        # What a redirect leads to may be within our own walls: it is not for whoever asked to read.
        what = "" if came_to else f": {body[:SHOWN]!r}"
        return f"somebody else answers{what}{redirected}", TO_US
    return f"answered{redirected}", ""


async def _zone(wanted: str, method: str, ca: Ca, zones: Zones, now: datetime) -> Finding:
    """Find where the TXT record of DNS-01 is to be put, or the standing one is."""
    host = wanted.removeprefix("*.")
    if method in {"dns-account-01", "dns-persist-01"} and ca.account is None:
        seen = f"the record is about our account, and there is none at {ca.name} yet"
        return Finding(method, Verdict.WARNING, seen, "look again after the first order, which registers it")
    name = _record_name(host, method, ca.account)
    try:
        place = await zones.place(name)
    except ZoneNotFound as e:
        return Finding(method, Verdict.FAILED, str(e), f"delegate the zone of {host} to servers that answer")
    alias = "" if place.owner == name else f"{name} is an alias of {place.owner}; "
    servers = ", ".join(map(str, place.servers))
    seen = f"{alias}zone {place.zone}, served by {servers}"
    if method == "dns-persist-01":
        return await _standing(wanted, ca, place, seen=seen, now=now)
    return Finding(method, Verdict.OK, seen)


async def _standing(wanted: str, ca: Ca, place: Place, *, seen: str, now: datetime) -> Finding:
    """Look for the standing record, as the CA will."""
    if not ca.identities:
        said = f"{seen}; {ca.name} does not say in its directory by which name a record permits it"
        return Finding("dns-persist-01", Verdict.WARNING, said, "ask its operator for that name")
    assert ca.account is not None  # noqa: S101 - who has none was told so
    issuers = [identity.lower() for identity in ca.identities]
    wildcard = wanted.startswith("*.")
    verdict, permission = await look(place, issuers, ca.account, wildcard=wildcard, now=now)
    text = persist_record_text(ca.identities[0], ca.account, wildcard=wildcard)
    line = zone_file_line(place.owner, text)
    if not verdict.served:
        return Finding("dns-persist-01", Verdict.FAILED, f"{seen}: {verdict.reason}", f"write: {line}")
    until = None if permission is None else permission.until
    if until is not None and until - now < ENDS_SOON:
        said = f"{seen}: the record's permission ends {until:%Y-%m-%d}, and renewals fail from then on"
        return Finding(
            "dns-persist-01", Verdict.WARNING, said, f"write a later persistUntil, or none: {line}"
        )
    return Finding("dns-persist-01", Verdict.OK, f"{seen}: {verdict.reason}")


def _record_name(host: str, method: str, account: str | None) -> str:
    if method == "dns-persist-01":
        return persist_record_name(host)
    if method == "dns-account-01" and account is not None:
        return account_record_name(host, account)
    return f"_acme-challenge.{host}"


class _NotAnswered(Exception):
    """No resolver gave an answer."""


async def _records(host: str, kind: str, zones: Zones) -> list[str]:
    reply = await _resolved(host, kind, zones)
    wanted = dns.rdatatype.from_text(kind)
    return [str(record) for rrset in reply.answer if rrset.rdtype == wanted for record in rrset]


async def _caa(host: str, zones: Zones) -> list[caa.Caa]:
    reply = await _resolved(host, "CAA", zones)
    return [
        caa.Caa(record.flags, record.tag.decode("ascii"), record.value.decode("ascii", "replace"))
        for rrset in reply.answer
        if rrset.rdtype == dns.rdatatype.CAA
        for record in rrset
    ]


async def _resolved(host: str, kind: str, zones: Zones) -> dns.message.Message:
    words = []
    try:
        resolvers = await zones.resolvers()
    except ZoneNotFound as e:
        raise _NotAnswered(str(e)) from e
    for resolver in resolvers:
        try:
            reply = await ask(resolver, dns.name.from_text(host), kind, recurse=True)
        except Silent as e:
            words.append(f"{resolver} {e}")
            continue
        if reply.rcode() in _ANSWERS:
            return reply
        broken = reply.rcode() == dns.rcode.SERVFAIL and await _answers_unchecked(resolver, host, kind)
        words.append(
            f"{resolver} says {dns.rcode.to_text(reply.rcode())}"
            + (f", as the DNSSEC of {host} does not validate" if broken else "")
        )
    raise _NotAnswered("; ".join(words))


async def _answers_unchecked(resolver: Server, host: str, kind: str) -> bool:
    """Whether the same resolver has an answer where it need not judge signatures."""
    try:
        reply = await ask(resolver, dns.name.from_text(host), kind, recurse=True, unchecked=True)
    except Silent:
        return False
    return reply.rcode() in _ANSWERS
