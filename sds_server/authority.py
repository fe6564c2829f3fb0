"""What the control plane's own CA signs: itself, its server's certificate, proxies' credentials. Pure.

A credential says who its holder is by its SPIFFE URI, and which enrolment it stands on by the serialNumber of
its subject: of a proxy that was removed and enrolled anew the old credentials stay worthless.
"""

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sds_server.errors import CallerError
from sds_server.model import Identity

BACKDATED: Final = timedelta(minutes=5)
"""A certificate begins before it is made, as clocks differ."""

CA_LIFETIME: Final = timedelta(days=5 * 365)
CA_RENEWED: Final = timedelta(days=365)
"""How long before its end a CA has a successor."""

RENEW_AT: Final = 2 / 3
"""Of a credential's life; what is left is for servers that are away."""

RENEW_JITTER: Final = 0.1
"""Of its life, before that: proxies that were made together do not come together."""

TOKEN_PREFIX: Final = "certvoy_enrol_"  # noqa: S105 - says what a token is for
RSA_BITS: Final = range(2048, 4097)

_TOKEN = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{43}}\.([0-9a-f]{{64}})")
_PROXY_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._-]{1,200}")

CaKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Ca:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: CaKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a proxy is given: its certificate, and the CAs by which it knows the control plane. PEM."""

    identity: Identity
    certificate_pem: str
    authorities_pem: str
    not_after: datetime


class Dated(Protocol):
    """A CA with the moment since which it is given out as trusted."""

    @property
    def created_at(self) -> datetime:
        """When it was made."""


_Dated = TypeVar("_Dated", bound=Dated)


def new_ca(key: CaKey, *, name: str, now: datetime) -> x509.Certificate:
    """Return a root that may sign leaves only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _builder(subject, subject, now - BACKDATED, now + CA_LIFETIME)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def signer(authorities: Sequence[_Dated], *, now: datetime, known_after: timedelta) -> _Dated | None:
    """Return the CA that signs now: the newest that every proxy trusts by now, else the oldest.

    A proxy learns of a new CA when its credential is renewed, ``known_after`` at the latest; a server whose
    certificate the new one signed at once would be a stranger to all of them.
    """
    known = [ca for ca in authorities if ca.created_at + known_after <= now]
    return known[-1] if known else next(iter(authorities), None)


def credential(
    ca: Ca, public_key: PublicKey, *, identity: Identity, enrolment: int, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Return a client certificate of this identity; it names nobody else."""
    subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, str(enrolment))])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    dates = (now - BACKDATED, now + lifetime)
    return _leaf(ca, public_key, subject, names, ExtendedKeyUsageOID.CLIENT_AUTH, dates=dates)


def server_certificate(
    ca: Ca, public_key: PublicKey, *, names: Sequence[str], now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Return the control plane's own certificate; it is no client's."""
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    dates = (now - BACKDATED, now + lifetime)
    return _leaf(ca, public_key, x509.Name([]), alternatives, ExtendedKeyUsageOID.SERVER_AUTH, dates=dates)


def caller_certificate(
    ca: Ca, public_key: PublicKey, *, trust_domain: str, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Return what the control plane shows to agents that it calls; it stands on no enrolment."""
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(control_plane_identity(trust_domain))]
    )
    dates = (now - BACKDATED, now + lifetime)
    return _leaf(ca, public_key, x509.Name([]), names, ExtendedKeyUsageOID.CLIENT_AUTH, dates=dates)


def enrolment_of(certificate: x509.Certificate) -> int | None:
    """Return which enrolment a credential stands on; None: it says none."""
    numbers = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    value = str(numbers[0].value) if len(numbers) == 1 else ""
    return int(value) if re.fullmatch(r"[1-9][0-9]{0,18}", value) else None


def issued_by(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether one of the CAs signed this certificate itself, no intermediate between."""
    for ca in authorities:
        try:
            certificate.verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return True
    return False


def public_key_of(csr_pem: str) -> PublicKey:
    """Return the key that a CSR asks for; whatever names it holds are not looked at.

    Raises:
        CallerError: it is none, is not signed by its key, or the key is of a type that Envoy does not take.
    """
    hint = "send a PKCS#10 request in PEM for an ECDSA P-256 key"
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        signed = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise CallerError("csr: it cannot be read", hint=hint) from e
    if not signed:
        raise CallerError("csr: it is not signed by its own key", hint=hint)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
        return key
    raise CallerError(
        "csr: its key is neither ECDSA P-256 or P-384 nor RSA of 2,048 to 4,096 bits", hint=hint
    )


def new_csr(key: CaKey) -> str:
    """Return a request for this key; who it is for the control plane knows already."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def control_plane_identity(trust_domain: str) -> Identity:
    """Return who calls agents: no proxy's identity, as those have ``/proxy/`` before their name."""
    return Identity(f"spiffe://{trust_domain}/control-plane")


def reserved(trust_domain: str) -> str:
    """Return how the identities begin that this CA alone may name."""
    return f"spiffe://{trust_domain}/"


def ca_name(trust_domain: str, generation: int) -> str:
    """Return what a CA of ours is called."""
    return f"certvoy {trust_domain} {generation}"


def ours(certificates: Sequence[x509.Certificate], trust_domain: str) -> Sequence[x509.Certificate]:
    """Return those that are a control plane's own CAs, among the roots that an agent trusts."""
    name = re.compile(re.escape(ca_name(trust_domain, 0).removesuffix("0")) + "[1-9][0-9]*")
    return [
        certificate
        for certificate in certificates
        if [
            attribute
            for attribute in certificate.subject
            if attribute.oid == NameOID.COMMON_NAME and name.fullmatch(str(attribute.value))
        ]
    ]


def proxy_identity(trust_domain: str, name: str) -> Identity:
    """Return who an enrolled proxy is.

    Raises:
        CallerError: it is not a name that fits into a SPIFFE ID.
    """
    if not _PROXY_NAME.fullmatch(name):
        raise CallerError(f"proxy: {name[:100]!r} cannot be its name", hint="use letters, digits, and . _ -")
    return Identity(f"spiffe://{trust_domain}/proxy/{name}")


def token_of(random: str, ca: x509.Certificate) -> str:
    """Return an enrolment token: who holds it may enrol once, and knows the control plane by its CA."""
    return f"{TOKEN_PREFIX}{random}.{digest(ca)}"


def ca_digest_of(token: str) -> str | None:
    """Return the SHA-256 of the CA that a token names; None: it is no enrolment token."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def digest(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER, in hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def renew_at(not_before: datetime, not_after: datetime, *, share: float) -> datetime:
    """Return when to renew what `credential` made; ``share`` of 0 to 1 is this proxy's part of the jitter."""
    made = not_before + BACKDATED
    return made + (not_after - made) * (RENEW_AT - RENEW_JITTER * share)


def pem(certificates: Sequence[x509.Certificate]) -> str:
    """Return certificates one after the other."""
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates)


def _leaf(
    ca: Ca,
    public_key: PublicKey,
    subject: x509.Name,
    names: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier,
    *,
    dates: tuple[datetime, datetime],
) -> x509.Certificate:
    begins, ends = dates[0], min(dates[1], ca.certificate.not_valid_after_utc)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return (
        _builder(subject, ca.certificate.subject, begins, ends)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(names, critical=not subject.rdns)  # RFC 5280 section 4.2.1.6
        .add_extension(issuer_key, critical=False)
        .sign(ca.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
