"""Key pairs and certificate signing requests. A key's owner keeps it; nothing here remembers one."""

import ipaddress
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from acme_engine.errors import BadIdentifier, BadSigningRequest, Misconfigured
from acme_engine.names import is_address, normalise_any

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

PUBLIC_EXPONENT = 65537


class KeyType(StrEnum):
    """Key pairs that TLS servers take, and public CAs; ``ed25519`` only CAs of one's own.

    The Baseline Requirements (section 6.1.1.3) allow RSA and ECDSA keys alone, and browsers take no other.
    """

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"


_CURVES = {KeyType.ECDSA_P256: ec.SECP256R1, KeyType.ECDSA_P384: ec.SECP384R1}
_BITS = {KeyType.RSA_2048: 2048, KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}


def generate(key_type: KeyType) -> PrivateKey:
    """Make a new key pair. RSA takes 40 to 400 ms, and now and then seconds: call it in a thread."""
    key_type = KeyType(key_type)  # a text too, as a configuration has it; of no type it is a ValueError
    if key_type is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    return rsa.generate_private_key(PUBLIC_EXPONENT, _BITS[key_type])


def type_of(public_key: PublicKeyTypes) -> KeyType | None:
    """Return of which type a key is; None: of none that we make."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        for key_type, curve in _CURVES.items():
            if isinstance(public_key.curve, curve):
                return key_type
    if isinstance(public_key, rsa.RSAPublicKey):
        for key_type, bits in _BITS.items():
            if public_key.key_size == bits:
                return key_type
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return KeyType.ED25519
    return None


def spki_sha256(public_key: PublicKeyTypes) -> bytes:
    """Return the SHA-256 of the DER SubjectPublicKeyInfo: the name of a key pair, 32 bytes."""
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).digest()


def csr(key: PrivateKey, names: Sequence[str]) -> bytes:
    """Return a signing request in DER: normalised names and addresses as SANs, the subject empty.

    No common name: the Baseline Requirements discourage it, and 64 bytes do not hold every name.
    """
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
        # Ed25519 has its own hash within (RFC 8032).
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def check_csr(der: bytes, names: Sequence[str]) -> None:
    """Refuse what a CA would, once every name is proved: a CSR of other names (RFC 8555 section 7.4).

    "The CSR MUST indicate the exact same set of requested identifiers as the initial newOrder request", a
    DNS name "either in the commonName portion of the requested subject name or in" the SANs, "or both".
    ``names`` are normalised. A common name that is no name of the order is left to the CA.

    Raises:
        BadSigningRequest: it is no CSR in DER, or not for these names.
    """
    try:
        request = x509.load_der_x509_csr(der)
        sans, common = _names_of(request)
    except (ValueError, TypeError) as e:
        raise BadSigningRequest(f"the signing request cannot be read as DER: {e}") from e
    wanted = set(names)
    lacking, foreign = wanted - sans - common, sans - wanted
    if lacking or foreign:
        have = ", ".join(sorted(sans | common)) or "no name"
        raise BadSigningRequest(f"the signing request is for {have}, the order for {', '.join(names)}")


def _names_of(request: x509.CertificateSigningRequest) -> tuple[set[str], set[str]]:
    """Return the names among the SANs, and the common names, as they are normalised where they can be."""
    try:
        said = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        sans = set()
    else:
        sans = {_spelled(name) for name in said.get_values_for_type(x509.DNSName)}
        sans |= {str(address) for address in said.get_values_for_type(x509.IPAddress)}
    common = request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return sans, {_spelled(str(attribute.value)) for attribute in common}


def _spelled(name: str) -> str:
    try:
        return normalise_any(name)
    except BadIdentifier:
        return name


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def pkcs8(key: PrivateKey) -> bytes:
    """Return the key in the clear, as PKCS#8 DER: to be sealed at once."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_pkcs8(der: bytes) -> PrivateKey:
    """Read back what `pkcs8` wrote.

    RSA's consistency check is left out: it takes 43 ms, and our own seal already vouches for the bytes.
    """
    key = serialization.load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, PrivateKey):
        raise Misconfigured(f"a {type(key).__name__} is not a key of a type that we make")
    return key


def pem(key: PrivateKey) -> bytes:
    """Return the key in the clear, as PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_pem(text: bytes | str) -> PrivateKey:
    """Read a private key from PEM, as `pem` wrote it, or another client did (PKCS#8, PKCS#1, SEC 1).

    Raises:
        Misconfigured: it is none, is encrypted, or of a type that we do not make.
    """
    try:
        key = serialization.load_pem_private_key(
            text.encode() if isinstance(text, str) else text, password=None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise Misconfigured("this is no private key in PEM that can be read without a password") from e
    if not isinstance(key, PrivateKey):
        raise Misconfigured(f"a {type(key).__name__} is not a key of a type that we make")
    return key
