"""Registered domains, by which CAs count: `example.co.uk` of `www.example.co.uk`.

By the Public Suffix List, private part included, as public CAs do. It is the copy in the package that is
installed: nothing is fetched.
"""

from collections.abc import Iterable
from functools import cache

from publicsuffixlist import PublicSuffixList

from acme_engine.names import is_address


def registered_domain(name: str) -> str:
    """Return the registered domain of a normalised name; of a public suffix, or an address, itself.

    A suffix that the list does not have counts as one label: of `www.example.test`, `example.test`.
    """
    if is_address(name):
        return name
    bare = name.removeprefix("*.")
    return _suffixes().privatesuffix(bare) or bare


def registered_domains(names: Iterable[str]) -> tuple[str, ...]:
    """Return the registered domains of normalised names, each once, sorted."""
    return tuple(sorted({registered_domain(name) for name in names}))


@cache
def _suffixes() -> PublicSuffixList:
    """Read the list once: that takes 0.2 s, and only who counts needs it."""
    return PublicSuffixList()
