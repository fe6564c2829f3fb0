"""What settings of providers may look like; each check raises ValueError with what to write instead."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from acme_engine.errors import BadIdentifier
from acme_engine.names import normalise

DNS_PORT = 53
MAX_PORT = 65535


def server(text: str) -> None:
    """A host's name or address, with a port or without."""
    address(text)


def servers(text: str) -> None:
    """Several of them, with spaces between."""
    for each in text.split():
        server(each)


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


def url(text: str) -> None:
    """The address of an API; plain HTTP, which shows credentials to the way, on this machine alone."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.query or parts.fragment or parts.username is not None or " " in text:
        raise ValueError("must be a URL such as https://api.example.com/v1, without a query or a password")
    if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(host)):
        raise ValueError("must begin with https://; http:// is for a server on this machine only")


def one_line(text: str) -> None:
    """A token or a password, as a header holds it. What was written is not repeated."""
    if not text or not text.isprintable():
        raise ValueError("must be one line of printable characters")


def word(text: str) -> None:
    """An id as a provider gives it, which becomes a part of a URL."""
    if not re.fullmatch(r"[\w.:-]{1,255}", text, re.ASCII):
        raise ValueError("must be an id of letters, digits and . : - _")


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


def _loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)
