"""Names as certificates and ACME orders spell them: A-labels, lower case, no final dot; or an IP address."""

import ipaddress
import re
from collections.abc import Sequence

import idna

from acme_engine.errors import BadIdentifier

MAX_LABEL = 63
MAX_NAME = 253
"""RFC 1035 section 2.3.4 allows 255 octets on the wire, which are 253 in text."""

MAX_NAMES = 100
"""In one certificate: the most that any public CA takes. Of more no order is read back."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def normalise(name: str) -> str:
    """Return the name as RFC 8555 section 7.1.4 wants it; U-labels become A-labels by IDNA 2008.

    Raises:
        BadIdentifier: it is not a DNS name, or an address, or its wildcard is not the whole left-most label.
    """
    bare = name.removesuffix(".")
    if not bare:
        raise BadIdentifier(name, "is empty")
    if _is_address(bare):
        raise BadIdentifier(name, "is an IP address, where only a DNS name will do")
    if not bare.isascii():
        bare = _to_a_labels(name, bare)
    bare = bare.lower()
    if len(bare) > MAX_NAME:
        raise BadIdentifier(name, f"has {len(bare)} bytes; a DNS name has at most {MAX_NAME}")
    labels = bare.removeprefix("*.").split(".")
    for label in labels:
        _check_label(name, label)
    if labels[-1].isdigit():
        raise BadIdentifier(name, "ends in a number as only an IP address does")
    return bare


def normalise_any(name: str) -> str:
    """Return a DNS name as `normalise` does, or an IP address in its one spelling (RFC 8738 section 3).

    Raises:
        BadIdentifier: it is neither, or an address of a zone on some host.
    """
    if not _is_address(name):
        return normalise(name)
    address = ipaddress.ip_address(name.strip("[]"))
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise BadIdentifier(name, "has a zone, which means something on one host alone")
    return str(address)


def is_address(name: str) -> bool:
    """Whether a normalised name is an IP address: no DNS name ends in a number."""
    return ":" in name or name.rpartition(".")[2].isdigit()


def normalise_all(names: Sequence[str]) -> tuple[str, ...]:
    """Normalise each, drop repetitions, and keep the order: the first is the primary.

    Raises:
        BadIdentifier: as `normalise_any`; or the names are one text, whose letters could be names.
    """
    if isinstance(names, str):
        raise BadIdentifier(names, "is one text, where a list of names is wanted")
    return tuple(dict.fromkeys(map(normalise_any, names)))


def _check_label(name: str, label: str) -> None:
    if not label:
        raise BadIdentifier(name, "has an empty label")
    if len(label) > MAX_LABEL:
        raise BadIdentifier(name, f"has a label of {len(label)} bytes; at most {MAX_LABEL} are allowed")
    if "*" in label:
        raise BadIdentifier(name, "has a wildcard that is not the whole left-most label")
    if not _LABEL.fullmatch(label):
        raise BadIdentifier(name, f"label {label!r} may hold only letters, digits and inner hyphens")
    if label.startswith("xn--"):
        try:
            idna.decode(label)
        except idna.IDNAError as e:
            raise BadIdentifier(name, f"label {label!r} is not a valid A-label: {e}") from e


def _to_a_labels(name: str, bare: str) -> str:
    star = "*." if bare.startswith("*.") else ""
    try:
        return star + idna.encode(bare.removeprefix(star), uts46=True).decode("ascii")
    except idna.IDNAError as e:
        raise BadIdentifier(name, f"cannot be written in A-labels (IDNA 2008): {e}") from e


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
