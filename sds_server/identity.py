"""Who a peer is, what it may see, and the TLS credentials that make the answer trustworthy.

An identity is read from the peer's certificate and from nothing else: ``node.id`` is a label that every
client can write. (gRPC's own ``x509_subject_alternative_name`` mixes the types of names, so that a DNS name
may look like a URI; the certificate itself does not.)
"""

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sds_server.errors import CallerError, ConfigError, OperatorError
from sds_server.log import get
from sds_server.model import Identity

MAX_SPIFFE_BYTES: Final = 2048  # SPIFFE-ID section 2.3
MAX_TRUST_DOMAIN_BYTES: Final = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

_log = get("identity")


def identify(peer_certificate_pem: bytes) -> Identity:
    """Return who the certificate's holder is: its one SPIFFE URI SAN, else ``dns:`` and its first DNS SAN.

    Raises:
        CallerError: no such name, more than one URI ("an X.509 SVID MUST contain exactly one URI SAN"), or a
            name that is not written as the specification says.
    """
    certificate = x509.load_pem_x509_certificate(peer_certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise CallerError(
            "client certificate has no subject alternative name",
            hint="issue it with a SPIFFE URI or a DNS name",
        ) from None
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
class Grant:
    """An identity may see these names.

    A name is ``exact``, a prefix ``team/*``, or a DNS suffix ``*.example.com``, which does not cover
    ``example.com`` itself. ``*`` alone is refused: who may see every private key is named one by one.
    """

    identity: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]

    def covers(self, name: str) -> bool:
        return (
            name in self.exact
            or any(name.startswith(prefix) and name != prefix for prefix in self.prefixes)
            or ("/" not in name and any(name.endswith(suffix) and name != suffix for suffix in self.suffixes))
        )


class Grants:
    """What every identity may see; immutable, and nothing where no Grant says so."""

    __slots__ = ("_rules",)

    def __init__(self, grants: Iterable[Grant]) -> None:
        """Join the Grants of each identity.

        Raises:
            ConfigError: an identity or a name that could never match, or would match too much.
        """
        names: dict[Identity, set[str]] = {}
        for grant in grants:
            names.setdefault(_identity(grant.identity), set()).update(grant.names)
        self._rules = {identity: _rule(identity, patterns) for identity, patterns in names.items()}

    def authorize(self, identity: Identity, resource_name: str) -> bool:
        """Whether the peer may see the name: the only such decision, for every method, push and transport."""
        rule = self._rules.get(identity)
        return rule is not None and rule.covers(resource_name)


def _identity(text: str) -> Identity:
    try:
        return dns_id(text.removeprefix("dns:")) if text.startswith("dns:") else spiffe_id(text)
    except CallerError as e:
        raise ConfigError(
            f"grants: identity {text!r}: {e}",
            hint="write spiffe://trust-domain/path, or dns: and a host's name",
        ) from None


def _rule(identity: Identity, patterns: Iterable[str]) -> _Rule:
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
    return _Rule(frozenset(exact), tuple(prefixes), tuple(suffixes))


def server_credentials(*, certificate: Path, private_key: Path, client_ca: Path) -> grpc.ServerCredentials:
    """Return gRPC credentials that demand a client certificate of ``client_ca``.

    The files are read again for each connection, so that they can be renewed in place; while they are not
    usable, what was read last stays in force.

    Raises:
        OperatorError: a file is missing, empty or not what it should be; it names the file and the key.
    """
    files = _Files(certificate, private_key, client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.read_again,  # type: ignore[arg-type]  # None says "unchanged", which the stubs do not know
        require_client_authentication=True,
    )


def https_context(*, certificate: Path, private_key: Path, client_ca: Path) -> ssl.SSLContext:
    """Return what the admin API's listener speaks TLS with; a client certificate is asked for, not demanded.

    Raises:
        OperatorError: a file is missing or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_cert_chain(certificate, private_key)
        context.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as e:
        raise OperatorError(
            f"admin: {certificate}, {private_key} or {client_ca}: {e}", hint=_FILE_HINT
        ) from e
    return context


class _Files:
    """The three files behind the server's credentials."""

    def __init__(self, certificate: Path, private_key: Path, client_ca: Path) -> None:
        self._paths = {
            "sds.certificate": certificate,
            "sds.key": private_key,
            "sds.client_ca": client_ca,
        }
        self._contents: tuple[bytes, ...] = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        chain, key, ca = contents = tuple(_content(setting, path) for setting, path in self._paths.items())
        leaf, *_ = self._certificates("sds.certificate", chain)
        self._certificates("sds.client_ca", ca)
        try:
            public_key = serialization.load_pem_private_key(key, password=None).public_key()
        except (ValueError, TypeError) as e:
            raise self._error("sds.key", "holds no private key in PEM that can be read") from e
        if public_key != leaf.public_key():
            raise self._error("sds.key", "is not the key of sds.certificate")
        self._contents = contents
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=ca)

    def read_again(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what changed, None for "nothing"; gRPC calls this in a thread of its own."""
        try:
            if tuple(path.read_bytes() for path in self._paths.values()) == self._contents:
                return None
            return self.read()
        except (OSError, OperatorError) as e:
            _log.warning("credentials.kept", reason=str(e))
            return None

    def _certificates(self, setting: str, pem: bytes) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(pem)
        except ValueError as e:
            raise self._error(setting, "holds no certificate in PEM that can be read") from e

    def _error(self, setting: str, what: str) -> OperatorError:
        return OperatorError(f"{setting}: {self._paths[setting]} {what}", hint=_FILE_HINT)


_FILE_HINT = "clients are never served without mutual TLS: put the right PEM file there"


def _content(setting: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as e:
        raise OperatorError(f"{setting}: {path}: {e.strerror}", hint=_FILE_HINT) from e
    if not content.strip():
        raise OperatorError(f"{setting}: {path} is empty", hint=_FILE_HINT)
    return content
