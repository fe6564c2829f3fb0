"""Who a peer is, whether that is believed, and what it may see.

An identity is read from the peer's certificate and from nothing else: ``node.id`` is a label that every
client can write. (gRPC's own ``x509_subject_alternative_name`` mixes the types of names, so that a DNS name
may look like a URI; the certificate itself does not.)
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from acme_engine.chain import UNREADABLE
from sds_server import authority
from sds_server.errors import CallerError, ConfigError
from sds_server.model import Identity, Kind

MAX_SPIFFE_BYTES: Final = 2048  # SPIFFE-ID section 2.3
MAX_TRUST_DOMAIN_BYTES: Final = 255
ALL_KINDS: Final = frozenset(Kind)

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def identify(peer_certificate_pem: bytes) -> Identity:
    """Return who the certificate's holder is: its one SPIFFE URI SAN, else ``dns:`` and its first DNS SAN.

    Raises:
        CallerError: no such name, more than one URI ("an X.509 SVID MUST contain exactly one URI SAN"), or a
            name that is not written as the specification says.
    """
    try:
        certificate = x509.load_pem_x509_certificate(peer_certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise CallerError(
            "client certificate has no subject alternative name",
            hint="issue it with a SPIFFE URI or a DNS name",
        ) from None
    except UNREADABLE as e:
        raise CallerError(f"client certificate cannot be read: {e}", hint="issue another") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) > 1:
        raise CallerError(
            f"client certificate has {len(uris)} URI names, expected one", hint="issue it with one"
        )
    if uris:
        return spiffe_id(uris[0])
    dns_names = names.get_values_for_type(x509.DNSName)
    if not dns_names:
        raise CallerError(
            "client certificate has neither a URI nor a DNS name",
            hint="issue it with a SPIFFE URI or a DNS name",
        )
    return dns_id(dns_names[0].lower())


def spiffe_id(text: str) -> Identity:
    """Read a SPIFFE ID of a workload; what is not in normal form is refused, never normalised.

    Raises:
        CallerError: it is none (SPIFFE-ID section 2; the path may not be empty, X509-SVID section 4.1).
    """
    trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
    segments = path.split("/")
    if (
        not text.startswith("spiffe://")
        or len(text) > MAX_SPIFFE_BYTES
        or not slash
        or len(trust_domain) > MAX_TRUST_DOMAIN_BYTES
        or not _TRUST_DOMAIN.fullmatch(trust_domain)
        or not all(_SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in segments)
    ):
        raise CallerError(
            f"not the SPIFFE ID of a workload: {text[:100]!r}",
            hint="write it spiffe://trust-domain/path: lower-case domain, no %, no empty or dot segment",
        )
    return Identity(text)


def dns_id(name: str) -> Identity:
    """Return the identity of a holder of this DNS name.

    Raises:
        CallerError: it is not one host's name in lower-case A-labels.
    """
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):  # noqa: PLR2004 - RFC 1035 section 3.1
        raise CallerError(
            f"not a host's DNS name: {name[:100]!r}", hint="use one name, no wildcard, in A-labels"
        )
    return Identity(f"dns:{name}")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a certificate; ``enrolment`` is the one that a credential of ours stands on."""

    identity: Identity
    enrolment: int | None = None


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who shows a token; ``admitted`` says whether it is good still, but for its end."""

    identity: Identity
    expires: datetime
    admitted: Callable[[], bool]


class Trust:
    """Whom to believe; immutable. TLS has verified the chain before, up to one of the CAs that are trusted.

    The trust domain of enrolment is our CA's alone: no other CA may name anybody in it.
    """

    __slots__ = ("_authorities", "_denied", "_enrolled", "_reserved")

    def __init__(
        self,
        trust_domain: str,
        *,
        authorities: Sequence[x509.Certificate] = (),
        enrolled: Mapping[Identity, int] | None = None,
        denied: Collection[Identity] = (),
    ) -> None:
        """``denied``: whom nobody may name."""
        self._reserved = authority.reserved(trust_domain)
        self._authorities = authorities
        self._enrolled = enrolled or {}
        self._denied = frozenset(denied)

    def holder(self, certificate_pem: bytes) -> Holder:
        """Return whose certificate it is.

        Raises:
            CallerError: it names nobody, or somebody whom it cannot name.
        """
        identity = identify(certificate_pem)
        if self.denies(identity):
            raise CallerError(f"{identity} is denied", hint="`sds.deny` of certvoy.yaml names it")
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        ours = authority.issued_by(certificate, self._authorities)
        if ours != identity.startswith(self._reserved):
            raise CallerError(
                f"{identity}: its certificate is {'' if ours else 'not '}of the control plane's own CA",
                hint=f"names below {self._reserved} are for enrolled proxies: `certvoy proxies enroll NAME`",
            )
        holder = Holder(identity, authority.enrolment_of(certificate) if ours else None)
        if not self.admits(holder):
            raise CallerError(
                f"{identity} is not enrolled, or was removed since", hint="`certvoy proxies enroll NAME`"
            )
        return holder

    def denying(self, identities: Collection[Identity]) -> "Trust":
        """Return the same, but that nobody may name these."""
        trust_domain = self._reserved.removeprefix("spiffe://").removesuffix("/")
        return Trust(trust_domain, authorities=self._authorities, enrolled=self._enrolled, denied=identities)

    def denies(self, identity: Identity) -> bool:
        """Whether the identity is refused, by whatever it is known."""
        return identity in self._denied

    def admits(self, holder: Holder) -> bool:
        """Whether the holder is enrolled now, if it has to be, and not denied."""
        if self.denies(holder.identity):
            return False
        if not holder.identity.startswith(self._reserved):
            return True
        return holder.enrolment is not None and self._enrolled.get(holder.identity) == holder.enrolment


@dataclass(frozen=True, slots=True)
class Grant:
    """An identity may see these names.

    A name is ``exact``, a prefix ``team/*``, or a DNS suffix ``*.example.com``, which does not cover
    ``example.com`` itself. ``*`` alone is refused: who may see every private key is named one by one.

    ``kinds``: it may see those of these kinds alone. ``issue``: its wish for such a name, where there is
    none yet, may have a certificate ordered. ``max_names``: so many names in all may it want at once; None:
    as many as there are. Of several such limits for an identity the lowest counts.
    """

    identity: str
    names: tuple[str, ...]
    kinds: frozenset[Kind] = ALL_KINDS
    issue: bool = False
    max_names: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What one identity may see: names, and the beginnings and ends of names."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    kinds: frozenset[Kind] = ALL_KINDS
    issue: bool = False

    def covers(self, name: str) -> bool:
        """Whether the name is one of them."""
        return (
            name in self.exact
            or any(name.startswith(prefix) and name != prefix for prefix in self.prefixes)
            or ("/" not in name and any(name.endswith(suffix) and name != suffix for suffix in self.suffixes))
        )


class Grants:
    """What every identity may see; immutable, and nothing where no Grant says so."""

    __slots__ = ("_max_names", "_rules")

    def __init__(self, grants: Iterable[Grant]) -> None:
        """Join the Grants of each identity.

        Raises:
            ConfigError: an identity or a name that could never match, or would match too much.
        """
        names: dict[Identity, dict[tuple[frozenset[Kind], bool], set[str]]] = {}
        self._max_names: dict[Identity, int] = {}
        for grant in grants:
            identity = _identity(grant.identity)
            alike = names.setdefault(identity, {})
            alike.setdefault((grant.kinds, grant.issue), set()).update(grant.names)
            if grant.max_names is not None:
                before = self._max_names.get(identity, grant.max_names)
                self._max_names[identity] = min(before, grant.max_names)
        self._rules = {
            identity: tuple(_rule(identity, *terms, patterns) for terms, patterns in alike.items())
            for identity, alike in names.items()
        }

    def changed(self, identities: Collection[Identity], grants: Iterable[Grant]) -> "Grants":
        """Return these, but what these identities may see is what ``grants`` says.

        Raises:
            ConfigError: as a new one.
        """
        new = Grants(grants)
        new._rules = {who: rules for who, rules in self._rules.items() if who not in identities} | new._rules
        kept = {who: most for who, most in self._max_names.items() if who not in identities}
        new._max_names = kept | new._max_names
        return new

    def authorize(self, identity: Identity, resource_name: str, kind: Kind | None = None) -> bool:
        """Whether the peer may see the name: the only such decision, for every method, push and transport.

        ``kind``: what the name is; None: that is not known, and the name alone decides.
        """
        # Asked at every look at every name: a generator would cost more than what it looks at.
        for rule in self._rules.get(identity, ()):
            if (kind is None or kind in rule.kinds) and rule.covers(resource_name):
                return True
        return False

    def may_issue(self, identity: Identity, resource_name: str) -> bool:
        """Whether the peer's wish for a name that is not there yet may have a certificate ordered."""
        return any(
            rule.issue and Kind.TLS_CERTIFICATE in rule.kinds and rule.covers(resource_name)
            for rule in self._rules.get(identity, ())
        )

    def max_names(self, identity: Identity) -> int | None:
        """Return how many names the peer may want at once; None: no Grant limits that."""
        return self._max_names.get(identity)

    def of(self, identity: Identity, kind: Kind) -> Rule:
        """Return all that the peer may see of a kind, for who is asked for everything at once."""
        rules = [rule for rule in self._rules.get(identity, ()) if kind in rule.kinds]
        return Rule(
            exact=frozenset().union(*(rule.exact for rule in rules)),
            prefixes=tuple(prefix for rule in rules for prefix in rule.prefixes),
            suffixes=tuple(suffix for rule in rules for suffix in rule.suffixes),
            kinds=frozenset({kind}),
        )


def _identity(text: str) -> Identity:
    try:
        return dns_id(text.removeprefix("dns:")) if text.startswith("dns:") else spiffe_id(text)
    except CallerError as e:
        raise ConfigError(
            f"grants: identity {text!r}: {e}",
            hint="write spiffe://trust-domain/path, or dns: and a host's name",
        ) from None


def _rule(identity: Identity, kinds: frozenset[Kind], issue: bool, patterns: Iterable[str]) -> Rule:  # noqa: FBT001 - as in a Grant
    exact, prefixes, suffixes = set(), [], []
    for pattern in sorted(patterns):
        if pattern.endswith("/*") and "*" not in pattern[:-1] and pattern != "/*":
            prefixes.append(pattern[:-1])
        elif pattern.startswith("*.") and _DNS_NAME.fullmatch(pattern[2:]):
            suffixes.append(pattern[1:])
        elif pattern and "*" not in pattern:
            exact.add(pattern)
        else:
            raise ConfigError(
                f"grants: {identity}: cannot grant the name {pattern!r}",
                hint="write a full name, a prefix like team/*, or a DNS suffix like *.example.com",
            )
    return Rule(frozenset(exact), tuple(prefixes), tuple(suffixes), kinds, issue)
