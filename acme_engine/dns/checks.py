"""What settings of providers may look like; each check raises ValueError with what to write instead."""

import base64
import binascii
import ipaddress
from collections.abc import Callable

from acme_engine.errors import BadIdentifier
from acme_engine.names import normalise

DNS_PORT = 53
MAX_PORT = 65535


def server(text: str) -> None:
    """A host's name or address, with a port or without."""
    address(text)


def address(text: str, *, default_port: int = DNS_PORT) -> tuple[str, int]:
    """Return (host, port) of ``host``, ``host:port``, ``[address]:port`` or a bare IPv6 address.

    Raises:
        ValueError: it is none of them.
    """
    host, port = text, default_port
    if _is_ip(text):
        return text, default_port
    if ":" in text:
        before, _, after = text.rpartition(":")
        host = before.removeprefix("[").removesuffix("]")
        bracketed = before == f"[{host}]"
        if not after.isdecimal() or not 0 < int(after) <= MAX_PORT or bracketed != (":" in host):
            raise ValueError("must be a host with or without a port: ns1.example.com:53, [2001:db8::1]:53")
        port = int(after)
    if not _is_ip(host):
        _name(host)
    return host, port


def zone(text: str) -> None:
    """The name of a zone."""
    _name(text)


def base64_text(text: str) -> None:
    """Bytes in base64, as key generators print them. What was written is not repeated."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64, as tsig-keygen prints it") from None
    if not decoded:
        raise ValueError("is empty")


def one_of(*choices: str) -> Callable[[str], None]:
    """One of a few words."""

    def check(text: str) -> None:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")

    return check


def _name(text: str) -> None:
    try:
        normalise(text)
    except BadIdentifier as e:
        raise ValueError(e.reason) from None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
