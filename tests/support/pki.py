"""A small PKI for tests: authorities and leaves on P-256, made in microseconds."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

BACKDATED = timedelta(minutes=5)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def cert_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Pair:
    """A chain, leaf first and without the root, and the leaf's key."""

    chain_pem: bytes
    key_pem: bytes
    certificate: x509.Certificate
    key: PrivateKey

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write ``NAME.pem`` and ``NAME.key`` and return their paths."""
        chain, key = directory / f"{name}.pem", directory / f"{name}.key"
        chain.write_bytes(self.chain_pem)
        key.write_bytes(self.key_pem)
        key.chmod(0o600)
        return chain, key


@dataclass(frozen=True)
class Authority:
    """A CA; ``parents`` are the intermediates above it, without the root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    parents: tuple[x509.Certificate, ...] = field(default=())
    is_root: bool = True

    @property
    def pem(self) -> bytes:
        return cert_pem(self.certificate)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.pem)
        return path

    def issue(
        self,
        dns: Sequence[str] = (),
        uris: Sequence[str] = (),
        ips: Sequence[str] = (),
        *,
        days: float = 30,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        key: PrivateKey | None = None,
        public_key: CertificatePublicKeyTypes | None = None,
        usages: Sequence[x509.ObjectIdentifier] | None = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        ca: bool = False,
        responder: str | None = None,
        must_staple: bool = False,
        crl: str | None = None,
        points: Sequence[x509.DistributionPoint] = (),
    ) -> Pair:
        """Issue a leaf with an empty subject; ``usages=None`` leaves the extended key usage out.

        ``responder`` is the URL of an OCSP responder, ``crl`` that of a revocation list; ``points``: others.
        ``public_key`` is of a key that somebody else has: the one of the pair is another then.
        """
        key = key or new_key()
        begins = not_before or datetime.now(UTC) - BACKDATED
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        names += [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        builder = (
            _builder(
                x509.Name([]), self.certificate.subject, begins, not_after or begins + timedelta(days=days)
            )
            .public_key(public_key or key.public_key())
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        if responder is not None:
            ocsp_at = x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(responder)
            )
            builder = builder.add_extension(x509.AuthorityInformationAccess([ocsp_at]), critical=False)
        if crl is not None or points:
            named = [] if crl is None else [point(crl)]
            builder = builder.add_extension(x509.CRLDistributionPoints([*points, *named]), critical=False)
        if must_staple:
            feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
            builder = builder.add_extension(feature, critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        above = () if self.is_root else (self.certificate, *self.parents)
        return Pair(b"".join(map(cert_pem, (leaf, *above))), key_pem(key), leaf, key)

    def intermediate(self, name: str) -> "Authority":
        """Make a CA below this one; its leaves come with it in their chain."""
        key = new_key()
        certificate = _ca_certificate(name, key, issuer=self.certificate.subject, signer=self.key)
        above = () if self.is_root else (self.certificate, *self.parents)
        return Authority(certificate, key, above, is_root=False)


def authority(name: str = "Test CA") -> Authority:
    """Make a self-signed root."""
    key = new_key()
    return Authority(_ca_certificate(name, key, issuer=_common_name(name), signer=key), key)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


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


def _ca_certificate(
    name: str, key: ec.EllipticCurvePrivateKey, *, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    begins = datetime.now(UTC) - timedelta(days=1)
    return (
        _builder(_common_name(name), issuer, begins, begins + timedelta(days=3650))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )


def point(url: str, **more: Any) -> x509.DistributionPoint:
    """Say that a revocation list is at this URL."""
    parts: dict[str, Any] = {"relative_name": None, "reasons": None, "crl_issuer": None}
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url)], **parts | more)


def scope(url: str | None = None, **more: Any) -> x509.IssuingDistributionPoint:
    """Say of which part of what its CA revokes a list is; by default of all."""
    parts: dict[str, Any] = {
        "full_name": None if url is None else [x509.UniformResourceIdentifier(url)],
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**parts | more)


def crl(
    ca: Authority,
    revoked: Sequence[x509.Certificate] = (),
    *,
    days: float = 30,
    now: datetime | None = None,
    reason: x509.ReasonFlags | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> str:
    """Return a CA's revocation list, as PEM; its ``extensions`` are critical."""
    begins = (now or datetime.now(UTC)) - BACKDATED
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(begins)
        .next_update(begins + timedelta(days=days))
    )
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.revocation_date(begins).build())
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def staple(
    ca: Authority,
    leaf: x509.Certificate,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    begins: datetime | None = None,
    lasts: timedelta | None = timedelta(days=4),
    signer: "Pair | Authority | None" = None,
    delegate: x509.Certificate | None = None,
    issuer: x509.Certificate | None = None,
    reason: x509.ReasonFlags | None = None,
) -> bytes:
    """Return an OCSP response about a leaf (DER), by the CA or by ``signer``, who shows ``delegate``."""
    begins = begins or datetime.now(UTC) - BACKDATED
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    by = signer or ca
    builder = ocsp.OCSPResponseBuilder().add_response(
        leaf,
        issuer or ca.certificate,
        hashes.SHA1(),
        status,
        begins,
        None if lasts is None else begins + lasts,
        begins if revoked else None,
        reason if revoked else None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, by.certificate)
    if delegate is not None:
        builder = builder.certificates([delegate])
    return builder.sign(by.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
