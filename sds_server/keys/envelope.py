"""The envelope: a private key, or a payload, under its own DEK, bound to what it is and whose. Pure.

Suite 1, with LP(x) = four bytes of length, big-endian, and x::

    aad  = LP("cv/1") LP(deployment) LP(key id) LP(purpose) LP(spki_sha256) LP(suite)
    okm  = HKDF-SHA256(DEK, salt = 32 random bytes, info = "cv/suite1" || aad, 64 bytes)
    blob = suite || salt || okm[32:64] || AES-256-GCM(key = okm[0:32], nonce = 0, aad, content)

okm[32:64] is the commitment: AES-GCM alone does not commit to its key, so that one ciphertext can be made to
open under two (CVE-2020-8897). The aad is computed from the inventory's row, never stored beside the blob: an
envelope that was moved to another row does not open. It names the public key and not the Certificate, because
the key is sealed before there is a certificate. A payload (ticket keys, a generic secret) has no public half:
its purpose says so, and a hash of its Secret's name and kind stands in that place.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from sds_server.errors import CustodyError
from sds_server.model import PAYLOAD_PURPOSE, KeyId

SUITE = 1
DEK_BYTES = 32
SALT_BYTES = 32
COMMITMENT_BYTES = 32
TAG_BYTES = 16
_HEAD = 1 + SALT_BYTES + COMMITMENT_BYTES
OVERHEAD = _HEAD + TAG_BYTES

NONCE = bytes(12)
"""Fixed, and safe: the salt makes a key of its own for each blob, and it encrypts one message."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What an envelope belongs to; whoever opens it must name the same.

    ``spki_sha256`` is the SHA-256 of the public half's DER SubjectPublicKeyInfo (32 bytes), or what stands in
    its place.
    """

    deployment: UUID
    key_id: KeyId
    purpose: str
    spki_sha256: bytes
    suite: int = SUITE

    @property
    def aad(self) -> bytes:
        """The bytes that the ciphertext is bound to."""
        return length_prefixed(
            b"cv/1",
            self.deployment.bytes,
            self.key_id.bytes,
            self.purpose.encode(),
            self.spki_sha256,
            bytes([self.suite]),
        )

    @property
    def context(self) -> dict[str, str]:
        """The same facts as the KMS takes them, to bind the wrapped DEK; it may log them."""
        return {
            "deployment": str(self.deployment),
            "key-id": str(self.key_id),
            "purpose": self.purpose,
            "spki": self.spki_sha256.hex(),
            "suite": str(self.suite),
        }


def seal(content: bytes, *, dek: bytes, binding: Binding) -> bytes:
    """Return the blob. ``dek`` is used for this one content and never again.

    Raises:
        CustodyError: rule spki, when the key is not the one that the binding names.
    """
    _check_spki(content, binding)
    salt = os.urandom(SALT_BYTES)
    key, commitment = _derive(dek, salt=salt, binding=binding)
    return bytes([SUITE]) + salt + commitment + AESGCM(key).encrypt(NONCE, content, binding.aad)


def unseal(blob: bytes, *, dek: bytes, binding: Binding, spki_known: bool = False) -> bytes:
    """Return what was sealed: PKCS#8 DER, or a payload.

    ``spki_known``: this very blob was opened by this binding before, so that its public half is known; to
    look at it once more would take as long as all the rest.

    Raises:
        CustodyError: the first rule that is broken, in this order: suite, commitment, tag, spki.
    """
    key = _committed(blob, dek=dek, binding=binding)
    try:
        content = AESGCM(key).decrypt(NONCE, blob[_HEAD:], binding.aad)
    except InvalidTag:
        raise _refused(binding, "tag", "the ciphertext was changed") from None
    if not spki_known:
        _check_spki(content, binding)
    return content


def check_dek(blob: bytes, *, dek: bytes, binding: Binding) -> None:
    """Hold a DEK against the envelope's commitment, without opening it.

    Raises:
        CustodyError: rule suite or commitment: it is another envelope's.
    """
    _committed(blob, dek=dek, binding=binding)


def length_prefixed(*parts: bytes) -> bytes:
    """Join parts so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _committed(blob: bytes, *, dek: bytes, binding: Binding) -> bytes:
    """Return the encryption key, which the blob commits to."""
    if binding.suite != SUITE or len(blob) < OVERHEAD or blob[0] != SUITE:
        raise _refused(binding, "suite", f"not an envelope of suite {SUITE}")
    key, expected = _derive(dek, salt=blob[1 : 1 + SALT_BYTES], binding=binding)
    if not hmac.compare_digest(expected, blob[1 + SALT_BYTES : _HEAD]):
        raise _refused(binding, "commitment", "another DEK, or an envelope of another row")
    return key


def _derive(dek: bytes, *, salt: bytes, binding: Binding) -> tuple[bytes, bytes]:
    """Return the encryption key and the commitment to it."""
    length = DEK_BYTES + COMMITMENT_BYTES
    okm = HKDF(SHA256(), length, salt=salt, info=b"cv/suite1" + binding.aad).derive(dek)
    return okm[:DEK_BYTES], okm[DEK_BYTES:]


def _check_spki(content: bytes, binding: Binding) -> None:
    if binding.purpose == PAYLOAD_PURPOSE:
        return
    try:
        # Without RSA's consistency check, which takes 43 ms: the tag vouches for the bytes that we made.
        key = load_der_private_key(content, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError):
        # No cause: a parser's message about a key may quote it.
        raise _refused(binding, "spki", "what is sealed is no private key") from None
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not hmac.compare_digest(hashlib.sha256(spki).digest(), binding.spki_sha256):
        raise _refused(binding, "spki", "the private key belongs to another public key")


def _refused(binding: Binding, rule: str, found: str) -> CustodyError:
    return CustodyError(f"key {binding.key_id}: {rule}: {found}", rule=rule)
