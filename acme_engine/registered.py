"""Registered domains, by which CAs count: `example.co.uk` of `www.example.co.uk`.

By the Public Suffix List, private part included, as public CAs do. It is the copy in the package that is
installed: nothing is fetched.
"""

import ipaddress
from collections.abc import Iterable
from functools import cache

from publicsuffixlist import PublicSuffixList

from acme_engine.names import is_address


def registered_domain(name: str) -> str:
    """Return the registered domain of a normalised name; of a public suffix itself.

    A suffix that the list does not have counts as one label: of `www.example.test`, `example.test`. An IPv4
    address counts for itself, an IPv6 address with its /64, as public CAs count them.
    """
    if is_address(name):
        address = ipaddress.ip_address(name)
        alone = isinstance(address, ipaddress.IPv4Address)
        return name if alone else str(ipaddress.ip_network((name, 64), strict=False))
    bare = name.removeprefix("*.")
    return _suffixes().privatesuffix(bare) or bare


def registered_domains(names: Iterable[str]) -> tuple[str, ...]:
    """Return the registered domains of normalised names, each once, sorted."""
    return tuple(sorted({registered_domain(name) for name in names}))


@cache
def _suffixes() -> PublicSuffixList:
    """Read the list once: that takes 0.2 s, and only who counts needs it."""
    return PublicSuffixList()
