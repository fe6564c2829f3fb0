"""Where a push may go: what its URL may look like, and which addresses are ever connected to. Pure.

Whoever may register a target, or answer for its name in DNS, must not make the control plane talk to what
only it can reach: itself, its neighbours, its cloud's metadata. So every address that a name has is judged,
and an address that holds an IPv4 address as what it reaches.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from sds_server.errors import CallerError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_PORT: Final = 65535
URL_HINT: Final = "write https://host:port of the agent's `listen`, such as https://web-1.example.com:8446"

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]"
_URL = re.compile(rf"https://(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})/?")

NEVER: Final = {
    "169.254.169.254/32": "an address of instance metadata",
    "169.254.170.2/32": "an address of task credentials",
    "169.254.170.23/32": "an address of pod credentials",
    "169.254.42.42/32": "an address of instance metadata",
    "192.0.0.192/32": "an address of instance metadata",
    "100.100.100.200/32": "an address of instance metadata",
    "168.63.129.16/32": "an address of instance metadata",
    "fd00:ec2::254/128": "an address of instance metadata",
    "fd00:ec2::23/128": "an address of pod credentials",
    "fd20:ce::254/128": "an address of instance metadata",
    "0.0.0.0/8": "an address of this network (RFC 1122)",
    "255.255.255.255/32": "the broadcast address",
    "224.0.0.0/4": "a multicast address",
    "::/128": "the unspecified address",
    "ff00::/8": "a multicast address",
}
"""What no configuration can allow: there is no agent there. The metadata of AWS, Azure, GCP, Alibaba, Oracle,
Scaleway; 168.63.129.16 is Azure's, and public."""

UNLESS_ALLOWED: Final = {
    "127.0.0.0/8": "a loopback address",
    "10.0.0.0/8": "a private address",
    "172.16.0.0/12": "a private address",
    "192.168.0.0/16": "a private address",
    "100.64.0.0/10": "an address of carrier-grade NAT",
    "169.254.0.0/16": "a link-local address",
    "192.0.0.0/24": "an address of IETF protocols",
    "192.0.2.0/24": "an address of documentation",
    "198.51.100.0/24": "an address of documentation",
    "203.0.113.0/24": "an address of documentation",
    "192.88.99.0/24": "an address of 6to4 relays",
    "198.18.0.0/15": "an address of benchmarks",
    "240.0.0.0/4": "a reserved address",
    "::1/128": "a loopback address",
    "fc00::/7": "a private address",
    "fe80::/10": "a link-local address",
    "fec0::/10": "a site-local address",
    "64:ff9b:1::/48": "an address of local NAT64",
    "2001::/23": "an address of IETF protocols",
    "2001:db8::/32": "an address of documentation",
    "3fff::/20": "an address of documentation",
    "2002::/16": "a 6to4 address",
}
"""What must be listed: the registries of special-purpose addresses (RFC 6890), without what is global."""

_GLOBAL: Final = tuple(map(ip_network, ("0.0.0.0/0", "2000::/3", "64:ff9b::/96")))
"""Where public addresses are; of IPv6 nothing else is assigned to anybody."""

_NEVER: Final = tuple((ip_network(text), what) for text, what in NEVER.items())
_UNLESS_ALLOWED: Final = tuple((ip_network(text), what) for text, what in UNLESS_ALLOWED.items())


@dataclass(frozen=True, slots=True)
class PushUrl:
    """An agent's endpoint: a host's name or address, and a port."""

    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """The address that it names; None: it names a host."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


def parse(text: str) -> PushUrl:
    """Read ``https://host:port``, and nothing else: no path, no user, no other scheme.

    Raises:
        CallerError: it is none.
    """
    match = _URL.fullmatch(text)
    url = None if match is None else PushUrl(match["host"].strip("[]").lower(), int(match["port"]))
    bracketed = match is not None and match["host"].startswith("[")
    if (
        url is None
        or not 0 < url.port <= MAX_PORT
        or (bracketed and not isinstance(url.address, IPv6Address))
    ):
        raise CallerError(f"push: must be https://host:port, got {_shown(text)}", hint=URL_HINT)
    return url


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """Return why an address may not be connected to; None: it may. ``allowed`` are the listed ranges."""
    for reached in _reached(address):
        what = next((what for network, what in _NEVER if _in(reached, network)), None)
        if what is not None:
            return f"{_named(address, reached)} is {what}: it is never pushed to"
        if any(_in(reached, network) for network in allowed):
            continue
        what = next((what for network, what in _UNLESS_ALLOWED if _in(reached, network)), None)
        if what is None and not any(_in(reached, network) for network in _GLOBAL):
            what = "no public address"
        if what is not None:
            return f"{_named(address, reached)} is {what}, and no range of `push.allow` holds it"
    return None


def _reached(address: Address) -> Iterator[Address]:
    """Yield the addresses that a connection reaches: itself, and any IPv4 address that it holds."""
    if isinstance(address, IPv4Address):
        yield address
        return
    number = int(address)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped  # the system connects to that, over IPv4
        return
    yield IPv6Address(number)  # without the scope, which no range has
    if address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    elif any(_in(address, ip_network(nat64)) for nat64 in ("64:ff9b::/96", "64:ff9b:1::/48")):
        yield IPv4Address(number & 0xFFFFFFFF)
    elif number >> 32 == 0 and number > 1:  # IPv4-compatible, RFC 4291 section 2.5.5.1
        yield IPv4Address(number)


def _in(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _named(address: Address, reached: Address) -> str:
    same = address.version == reached.version
    return str(address) if same else f"{address}, which is {reached},"


def _shown(text: str) -> str:
    """Quote what was written, without what may be a password."""
    shown = re.sub(r"//[^/]*@", "//...@", text[:200])
    return f'"{shown}"' if shown.isprintable() else repr(shown)
