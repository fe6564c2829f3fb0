"""Uploaded pairs: parsed, held against the same content gate as what a CA issues, sealed, stored.

What follows is as for any Certificate: published, proved at each Target, complete. A pair that is refused
leaves nothing behind.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Final
from uuid import uuid4

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from acme_engine import chain as chains
from acme_engine import keys, names, renewal
from acme_engine.chain import Chain
from acme_engine.errors import BadIdentifier, ChainError
from sds_server.clock import Clock
from sds_server.errors import Conflict, GateRefused, NotFound
from sds_server.gate import check_pair
from sds_server.inventory import secrets, uploads
from sds_server.inventory.database import Database
from sds_server.inventory.uploads import Uploaded
from sds_server.keys.kms import Sealer
from sds_server.log import get
from sds_server.model import (
    LEAF_PURPOSE,
    UPLOAD,
    UPLOADED,
    Certificate,
    CertificateId,
    CertificateStatus,
    KeyId,
    KeyType,
    Kind,
    Secret,
    SecretName,
)
from sds_server.pem import PRIVATE_KEY

ISSUER_HEX: Final = 16

HINTS: Final[Mapping[str, str]] = {
    # The gate's rule: what whoever brought the pair does next
    "pem": "send PEM: CERTIFICATE blocks as the chain, one PRIVATE KEY block as the key",
    "size": "send the leaf and its intermediates, and nothing else",
    "key": "send the private key that the leaf was issued for",
    "names": "bring a certificate for exactly the secret's names, or upload it under another name",
    "dates": "get a certificate that is valid now",
    "usage": "send the certificate of a TLS server",
    "strength": "use ECDSA on P-256 or P-384, or RSA with 2048, 3072 or 4096 bits",
    "order": "put the leaf first, then each issuer below what it issued",
    "root": "leave the root out: whoever trusts it has it",
}

_log = get("uploads")


class Uploads:
    """Takes pairs that people bring."""

    def __init__(self, *, database: Database, sealer: Sealer, clock: Clock, replica: str) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._replica = replica

    async def put(
        self, name: SecretName, *, chain_pem: bytes, private_key_pem: bytes, actor: str
    ) -> Uploaded:
        """Make the pair the Secret's next generation; one that is served already changes nothing.

        Where there is no Secret of that name, one is created with the leaf's names, whose issuer is `UPLOAD`.

        Raises:
            GateRefused: the pair must not be served; the message says what is wrong with it.
            Conflict: the certificate is in the inventory already, or the Secret is frozen.
            CustodyError, Unavailable: it cannot be sealed or stored.
        """
        # RSA's consistency check takes tens of milliseconds: not in the loop that serves.
        key, key_type = await asyncio.to_thread(_key, private_key_pem)
        spki_sha256, pkcs8 = keys.spki_sha256(key.public_key()), keys.pkcs8(key)
        chain = _chain(chain_pem, spki_sha256)
        secret = await self._secret(name, chain, key_type)
        try:
            check_pair(
                chain_pem=chain.pem,
                key_pkcs8=pkcs8,
                spki_sha256=spki_sha256,
                names=secret.domains,
                now=self._clock.now(),
            )
        except GateRefused as e:
            raise _refused(e.rule, e.message) from e
        sealed = await self._sealer.seal(
            pkcs8, key_id=KeyId(uuid4()), purpose=LEAF_PURPOSE, spki_sha256=spki_sha256
        )
        decision = renewal.decide(not_before=chain.not_before, not_after=chain.not_after)
        certificate = Certificate(
            id=CertificateId(uuid4()),
            secret=name,
            generation=0,
            status=CertificateStatus.ISSUED,
            domains=secret.domains,
            issuer=UPLOADED + _issuer_hash(chain.leaf),
            serial_number=chain.serial_number,
            not_before=chain.not_before,
            not_after=chain.not_after,
            fingerprint=chain.fingerprint,
            key_id=sealed.key_id,
            key_ref=sealed.key_ref,
            chain_pem=chain.pem,
            renew_at=decision.at,
        )
        done = await uploads.store(
            self._database,
            secret,
            certificate,
            sealed,
            renew_reason=decision.reason,
            replica=self._replica,
            actor=actor,
        )
        if not done.unchanged:
            _log.info("certificate.uploaded", secret=name, fingerprint=chain.fingerprint)
        return done

    async def _secret(self, name: SecretName, chain: Chain, key_type: KeyType) -> Secret:
        """Return the Secret of that name, or the one that is to be created."""
        try:
            secret = await secrets.get(self._database, name)
        except NotFound:
            return Secret(
                name=name,
                kind=Kind.TLS_CERTIFICATE,
                domains=_domains(chain),
                issuer=UPLOAD,
                key_type=key_type,
            )
        if secret.kind is not Kind.TLS_CERTIFICATE:
            raise Conflict(
                f"secret {name}: it is a {secret.kind} for ever, and cannot become a certificate",
                hint="use another name",
            )
        return secret


def _refused(rule: str, message: str, *, hint: str | None = None) -> GateRefused:
    return GateRefused(rule, message, hint=hint or HINTS.get(rule))


def _key(pem: bytes) -> tuple[keys.PrivateKey, KeyType]:
    """Read the one private key. No refusal has a cause: a parser's message about a key may quote it."""
    if len(pem) > chains.MAX_BYTES:
        raise _refused("size", f"private_key: it has {len(pem)} bytes; at most {chains.MAX_BYTES} are taken")
    blocks = list(PRIVATE_KEY.finditer(pem))
    if len(blocks) != 1:
        raise _refused("pem", f"private_key: it holds {len(blocks)} PRIVATE KEY blocks, not one")
    block, label = blocks[0][0], blocks[0][1]
    if label.startswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block:
        raise _refused(
            "key",
            "private_key: it is encrypted",
            hint="take its passphrase off: `openssl pkey -in FILE -out PLAIN`; delete PLAIN afterwards",
        )
    try:
        key = load_pem_private_key(block, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _refused("pem", "private_key: it cannot be read, or its parts do not fit together") from None
    match key:
        case ec.EllipticCurvePrivateKey() | rsa.RSAPrivateKey() | ed25519.Ed25519PrivateKey() if (
            found := keys.type_of(key.public_key())
        ) is not None:
            return key, KeyType(found)
        case ec.EllipticCurvePrivateKey():
            what = f"an EC key on {key.curve.name}"
        case rsa.RSAPrivateKey():
            what = f"an RSA key of {key.key_size} bits"
        case _:
            what = f"an {type(key).__name__.removesuffix('PrivateKey')} key"
    raise _refused("strength", f"private_key: it is {what}, which not every proxy serves")


def _chain(pem: bytes, spki_sha256: bytes) -> Chain:
    """Read the chain, and say in what way it is out of order before the gate says that the key is another."""
    try:
        chain = chains.parse(pem)
    except ChainError as e:
        raise _refused("pem" if e.rule == "empty" else e.rule, f"chain: {e.message}") from e
    leaves = [certificate for certificate in chain.certificates if not _is_ca(certificate)]
    if len(leaves) > 1:
        raise _refused(
            "order", f"chain: it holds {len(leaves)} leaves", hint="send one leaf with its intermediates"
        )
    places = [
        place
        for place, certificate in enumerate(chain.certificates, 1)
        if keys.spki_sha256(certificate.public_key()) == spki_sha256
    ]
    if places and 1 not in places:
        raise _refused(
            "order", f"chain: the private key is that of certificate {places[0]}, not of the first"
        )
    if not places:
        raise _refused("key", "the private key is of none of the chain's certificates")
    return chain


def _domains(chain: Chain) -> tuple[str, ...]:
    if not chain.names:
        raise _refused("names", "chain: the leaf has no DNS name among its subject alternative names")
    try:
        return names.normalise_all(chain.names)
    except BadIdentifier as e:
        raise _refused("names", f"chain: the leaf's name {e}") from e


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _issuer_hash(leaf: x509.Certificate) -> str:
    """Name the CA by its distinguished name: a serial number is unique for it (RFC 5280 section 4.1.2.2)."""
    return hashlib.sha256(leaf.issuer.public_bytes()).hexdigest()[:ISSUER_HEX]
