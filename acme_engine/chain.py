"""A chain as the CA sent it: parse it strictly, then check it against key, names and dates before any use."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from acme_engine import keys
from acme_engine.errors import ChainError

MAX_BYTES = 64 * 1024
MAX_CERTIFICATES = 10
"""Real chains have two to four; Envoy would load, and send in every handshake, whatever it is given."""

MAX_KEPT = 64
"""So much of what stands above leaves is kept as it was read: it is the same for most of them."""

MIN_RSA_BITS = 2048
SKEW = timedelta(minutes=5)
"""By how much a CA's clock may be ahead of ours."""

UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate that it cannot read, or not to its end."""

_LABEL = re.compile(rb"-----BEGIN ([^-\r\n]*)-----")
_END = b"-----END CERTIFICATE-----"

T = TypeVar("T", bound=x509.ExtensionType)


@dataclass(frozen=True)
class Chain:
    """The leaf and its intermediates, leaf first; ``pem`` holds exactly these and nothing else."""

    pem: bytes = field(repr=False)
    certificates: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that names us."""
        return self.certificates[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the leaf's DER, lower-case hex."""
        return self.leaf.fingerprint(hashes.SHA256()).hex()

    @property
    def serial_number(self) -> str:
        """The leaf's serial number, lower-case hex without leading zeros."""
        return f"{self.leaf.serial_number:x}"

    @property
    def not_before(self) -> datetime:
        """When the leaf begins to be valid, in UTC."""
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When the leaf ends, in UTC."""
        return self.leaf.not_valid_after_utc

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The leaf's SANs that are DNS names, lower case, or IP addresses, in its own order."""
        san = _extension(self.leaf, x509.SubjectAlternativeName)
        return tuple(str(n.value).lower() for n in san or () if isinstance(n, x509.DNSName | x509.IPAddress))

    @property
    def spki_sha256(self) -> bytes:
        """The name of the leaf's key pair, as `keys.spki_sha256` gives it."""
        return keys.spki_sha256(self.leaf.public_key())


def parse(pem: bytes) -> Chain:
    """Read ``application/pem-certificate-chain`` (RFC 8555 section 9.1).

    Raises:
        ChainError: rule ``empty``, ``pem`` (not certificates, or more than certificates) or ``size``.
    """
    if not pem.strip():
        raise ChainError("empty", "the chain is empty")
    if len(pem) > MAX_BYTES:
        raise ChainError("size", f"the chain has {len(pem)} bytes; at most {MAX_BYTES} are taken")
    # The same section warns of a hostile CA that sends a private key along: whatever loads the file might
    # take it. The parser below would pass over such a block in silence.
    for label in _LABEL.findall(pem):
        if label != b"CERTIFICATE":
            raise ChainError(
                "pem", f"the chain holds a block of type {label[:40].decode('ascii', 'replace')}"
            )
    try:
        first, end, rest = pem.partition(_END)
        (leaf,) = x509.load_pem_x509_certificates(first + end)
        _touch(leaf)
        issuers, clean = _issuers(rest)
    except UNREADABLE as e:
        raise ChainError("pem", f"the chain cannot be read: {e}") from e
    if 1 + len(issuers) > MAX_CERTIFICATES:
        raise ChainError(
            "size", f"the chain has {1 + len(issuers)} certificates, more than {MAX_CERTIFICATES}"
        )
    return Chain(leaf.public_bytes(serialization.Encoding.PEM) + clean, (leaf, *issuers))


def check(
    chain: Chain,
    *,
    spki_sha256: bytes,
    names: Sequence[str],
    now: datetime,
    roots: Sequence[x509.Certificate] = (),
    skew: timedelta = SKEW,
) -> None:
    """Refuse a chain that must not be served; ``names`` are normalised, ``roots`` empty means "any".

    Raises:
        ChainError: with the name of the first rule that it breaks: ``key``, ``names``, ``dates``, ``usage``,
            ``strength``, ``order`` or ``root``.
    """
    _check_key(chain, spki_sha256)
    _check_names(chain, names)
    _check_dates(chain, now, skew)
    _check_usage(chain.leaf)
    _check_strength(chain.leaf)
    _check_order(chain)
    if roots:
        _check_root(chain, roots, now)


def _check_key(chain: Chain, spki_sha256: bytes) -> None:
    if chain.spki_sha256 != spki_sha256:
        raise ChainError("key", "the leaf is for another key than the one requested")


def _check_names(chain: Chain, names: Sequence[str]) -> None:
    san = _extension(chain.leaf, x509.SubjectAlternativeName)
    others = [n for n in san or () if not isinstance(n, x509.DNSName | x509.IPAddress)]
    if others:
        raise ChainError("names", f"the leaf holds a {type(others[0]).__name__} that was not requested")
    have, want = set(chain.names), set(names)
    if have != want:
        missing, extra = sorted(want - have), sorted(have - want)
        raise ChainError(
            "names", f"the leaf's names differ from those requested: missing {missing}, extra {extra}"
        )


def _check_dates(chain: Chain, now: datetime, skew: timedelta) -> None:
    for certificate in chain.certificates:
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if begins <= now + skew and now < ends:
            continue
        who = "the leaf" if certificate is chain.leaf else _name(certificate)
        said = f"is not valid before {begins:%FT%TZ}" if begins > now else f"expired at {ends:%FT%TZ}"
        raise ChainError("dates", f"{who} {said}")


def _check_usage(leaf: x509.Certificate) -> None:
    if _is_ca(leaf):
        raise ChainError("usage", "the leaf is a CA certificate")
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    if usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        raise ChainError("usage", "the leaf's extended key usage lacks serverAuth")


def _check_strength(leaf: x509.Certificate) -> None:
    """Take what Envoy's BoringSSL loads as a server key."""
    match leaf.public_key():
        case rsa.RSAPublicKey() as key if key.key_size < MIN_RSA_BITS:
            raise ChainError("strength", f"the leaf's RSA key has {key.key_size} bits, under {MIN_RSA_BITS}")
        case ec.EllipticCurvePublicKey() as key if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            raise ChainError("strength", f"the leaf's curve {key.curve.name} is neither P-256 nor P-384")
        case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey() | ed25519.Ed25519PublicKey():
            return
        case other:
            raise ChainError("strength", f"the leaf's key is a {type(other).__name__}")


def _check_order(chain: Chain) -> None:
    """Verify every link: "Each following certificate SHOULD directly certify the one preceding it"."""
    for below, above in zip(chain.certificates, chain.certificates[1:], strict=False):
        if not _issued(below, above):
            raise ChainError("order", f"{_name(below)} is not issued by {_name(above)}, which follows it")
        if above.subject == above.issuer:
            raise ChainError("root", f"the chain holds the root {_name(above)}; leave it out")


def _check_root(chain: Chain, roots: Sequence[x509.Certificate], now: datetime) -> None:
    top = chain.certificates[-1]
    living = [root for root in roots if root.not_valid_before_utc <= now < root.not_valid_after_utc]
    if not any(top == root or _issued(top, root) for root in living):
        raise ChainError("root", f"{_name(top)} is not issued by any of the {len(living)} valid roots given")


def _issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):  # the names differ, an odd key type, a false signature
        return False
    return _is_ca(above)


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


@lru_cache(maxsize=MAX_KEPT)
def _issuers(pem: bytes) -> tuple[tuple[x509.Certificate, ...], bytes]:
    """Read what stands above a leaf; return it, and the same as PEM with nothing else in it."""
    if not _LABEL.search(pem):
        return (), b""
    certificates = tuple(x509.load_pem_x509_certificates(pem))
    for certificate in certificates:
        _touch(certificate)
    return certificates, b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def _touch(certificate: x509.Certificate) -> None:
    """Read the parts that are parsed lazily, so that a damaged one is refused here and not in a caller."""
    certificate.extensions  # noqa: B018 - a property that parses
    certificate.public_key()
    certificate.subject  # noqa: B018
    certificate.issuer  # noqa: B018
    if certificate.serial_number <= 0:
        raise ValueError("its serial number is not positive")  # RFC 5280 section 4.1.2.2


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
