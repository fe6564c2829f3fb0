"""OCSP responses: what a responder is asked, and what of its answer may be stapled. Pure.

A staple is a response (RFC 6960) that a server sends along with its certificate, so that clients need not ask
the CA. Envoy 1.40 staples whatever it is given, revoked and expired ones too: so what leaves is judged here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha1, sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from acme_engine import chain as chains

RESPONSE_MAX: Final = 20_000
"""Bytes; real ones have 300 to 3,000. Each handshake carries it."""

SKEW: Final = timedelta(minutes=5)
"""By how much a responder's clock may be ahead of ours."""

EARLY: Final = timedelta(minutes=1)
EARLY_SHARE: Final = 100
"""A staple is taken off a hundredth of its life before it ends, a minute at most: under `STRICT_STAPLING`
each handshake between its end and the moment at which a proxy has the next content would fail."""

SOONEST: Final = timedelta(seconds=5)
SPREAD: Final = 0.1
"""Of a response's life, over which refreshes are spread: what came together is not asked for together."""

RETRY_FIRST: Final = timedelta(minutes=1)
RETRY_MAX: Final = timedelta(hours=1)
RETRY_SHARE: Final = 4

_URL_MAX: Final = 1000


class Finding(StrEnum):
    """What an answer is."""

    GOOD = "good"
    REVOKED = "revoked"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Responder:
    """Who is asked about a leaf: the URL that it names, and its issuer's certificate (DER)."""

    url: str
    issuer: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Staple:
    """A response that may be stapled: good by its signer's word, from ``this_update`` to ``next_update``."""

    response: bytes = field(repr=False)
    this_update: datetime
    next_update: datetime

    @property
    def sent_until(self) -> datetime:
        """Until when it goes out with a certificate that may go without."""
        return self.next_update - min(EARLY, (self.next_update - self.this_update) / EARLY_SHARE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer is, and why. ``staple`` only of a good one; ``code`` is the reason of a revocation."""

    finding: Finding
    reason: str
    staple: Staple | None = None
    code: str | None = None


def must_staple(leaf: x509.Certificate) -> bool:
    """Whether clients are to refuse it without a staple (RFC 7633): its TLS feature names status_request."""
    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return False
    return x509.TLSFeatureType.status_request in features


def responder_of(chain: chains.Chain, roots: Sequence[x509.Certificate] = ()) -> Responder | None:
    """Return who is asked about the chain's leaf; None: it names nobody, or its issuer is not known.

    ``roots`` are those that the chain may build to: a leaf that a root signed has no other issuer here.
    """
    try:
        access = chain.leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return None
    urls = [
        one.access_location.value
        for one in access
        if one.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(one.access_location, x509.UniformResourceIdentifier)
    ]
    url, issuer = web_url(urls), issuer_of(chain, roots)
    return None if url is None or issuer is None else Responder(url, issuer)


def web_url(urls: Sequence[str]) -> str | None:
    """Return the first that can be asked by HTTP; None: there is none."""
    url = next((u for u in urls if u.startswith(("http://", "https://")) and len(u) <= _URL_MAX), None)
    return None if url is None or not url.isascii() or not url.isprintable() else url


def issuer_of(chain: chains.Chain, roots: Sequence[x509.Certificate]) -> bytes | None:
    """Return the certificate (DER) of who issued the leaf; None: it is neither in the chain nor a root."""
    candidates = (*chain.certificates[1:2], *roots)
    issuer = next((one for one in candidates if _issued(chain.leaf, one)), None)
    return None if issuer is None else issuer.public_bytes(serialization.Encoding.DER)


def request(leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return the request (DER): one certificate, by SHA-1 as RFC 5019 section 2.1.1 wants, and no nonce.

    A nonce would forbid the answers that a responder makes beforehand, and a staple is not fresher for it.
    """
    asked = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA1())  # noqa: S303
    return asked.build().public_bytes(serialization.Encoding.DER)


def judge(
    der: bytes, *, leaf: x509.Certificate, issuer: x509.Certificate, now: datetime, skew: timedelta = SKEW
) -> Judgement:
    """Judge an answer about a leaf; what is not signed for its issuer, now, about exactly it says nothing."""
    if len(der) > RESPONSE_MAX:
        return _unusable(f"it has {len(der)} bytes; at most {RESPONSE_MAX} are stapled")
    try:
        answer = ocsp.load_der_ocsp_response(der)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return _unusable(f"the responder says {answer.response_status.name.lower()}")
        singles = list(answer.responses)
        why = _foreign(singles, leaf, issuer) or _unsigned(answer, issuer, now)
        return _unusable(why) if why is not None else _status(der, answer, now, skew)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return _unusable("it is no OCSP response that can be read")


def _unusable(reason: str) -> Judgement:
    return Judgement(Finding.UNUSABLE, reason)


def _foreign(
    singles: Sequence[ocsp.OCSPSingleResponse], leaf: x509.Certificate, issuer: x509.Certificate
) -> str | None:
    """Return why it is not about the leaf; Envoy takes answers about one certificate only."""
    if len(singles) != 1:
        return f"it is about {len(singles)} certificates, not about one"
    (one,) = singles
    if one.serial_number != leaf.serial_number:
        return f"it is about serial number {one.serial_number:x}"
    digest = {hashes.SHA1: sha1, hashes.SHA256: sha256}.get(type(one.hash_algorithm))
    if digest is None:
        return f"it names the issuer by {one.hash_algorithm.name}"
    name, key = issuer.subject.public_bytes(), _key_bits(issuer)
    if (one.issuer_name_hash, one.issuer_key_hash) != (digest(name).digest(), digest(key).digest()):
        return "it is about a certificate of another issuer"
    return None


def _unsigned(answer: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> str | None:
    """Return why nobody signed it who may: the issuer, or whom it has delegated (section 4.2.2.2)."""
    candidates = [issuer, *answer.certificates]
    signer = next((one for one in candidates if _is_named(answer, one)), None)
    if signer is None:
        return "whoever signed it is not the issuer, and comes without a certificate"
    if signer != issuer:
        if not _issued(signer, issuer):
            return "whoever signed it was not delegated by the issuer"
        if ExtendedKeyUsageOID.OCSP_SIGNING not in _usages(signer):
            return "whoever signed it has no certificate for signing OCSP responses"
        if not signer.not_valid_before_utc <= now + SKEW or signer.not_valid_after_utc <= now:
            return "the certificate of whoever signed it is outside of its dates"
    try:
        _verify(signer, answer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return "its signature is false"
    return None


def _status(der: bytes, answer: ocsp.OCSPResponse, now: datetime, skew: timedelta) -> Judgement:
    begins, ends = answer.this_update_utc, answer.next_update_utc
    if begins > now + skew:
        return _unusable(f"it is of the future: {begins:%FT%TZ}")
    if ends is None:
        # Envoy treats it as expired (envoyproxy/envoy#19305).
        return _unusable("it does not say when the next one comes")
    if ends <= now:
        return _unusable(f"it ended at {ends:%FT%TZ}")
    match answer.certificate_status:
        case ocsp.OCSPCertStatus.GOOD:
            return Judgement(Finding.GOOD, f"good until {ends:%FT%TZ}", Staple(der, begins, ends))
        case ocsp.OCSPCertStatus.REVOKED:
            code = answer.revocation_reason
            said = "" if code is None else f" ({code.value})"
            reason = f"revoked at {answer.revocation_time_utc:%FT%TZ}{said}, says the responder"
            return Judgement(Finding.REVOKED, reason, code=None if code is None else code.value)
        case _:
            return _unusable("the responder does not know the certificate")


def newer(staple: Staple, before: Staple | None, *, now: datetime) -> Staple:
    """Return the one of the two that was said last, of those that have not ended; ``staple`` has not.

    Over plain HTTP anybody on the way can repeat an older answer, and caches do.
    """
    if before is None or before.next_update <= now or before.this_update <= staple.this_update:
        return staple
    return before


def refresh_in(staple: Staple, *, now: datetime, jitter: float) -> timedelta:
    """Return how long until the next one is fetched: half of its life, spread by ``jitter`` of [0, 1).

    Where that is over already, as of answers that are made beforehand, half of what is left.
    """
    life = staple.next_update - staple.this_update
    at = staple.this_update + life * (0.5 - SPREAD / 2 + SPREAD * jitter)
    if at <= now:
        at = now + (staple.next_update - now) / 2
    return max(at - now, SOONEST)


def retry_in(*, attempts: int, next_update: datetime | None, now: datetime) -> timedelta:
    """Return how long until a responder is asked again that gave nothing; ``attempts`` counts from 1.

    While there is a staple, sooner than a quarter of what is left of it.
    """
    pause = min(RETRY_FIRST * (1 << min(attempts - 1, 10)), RETRY_MAX)
    if next_update is not None and next_update > now:
        pause = min(pause, (next_update - now) / RETRY_SHARE)
    return max(pause, SOONEST)


def _issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_named(answer: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if answer.responder_name is not None:
        return answer.responder_name == certificate.subject
    return answer.responder_key_hash == sha1(_key_bits(certificate)).digest()  # noqa: S324 - ResponderID's


def _usages(certificate: x509.Certificate) -> Iterable[x509.ObjectIdentifier]:
    try:
        return certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()


def _key_bits(certificate: x509.Certificate) -> bytes:
    """Return what an issuer's key is hashed by: the bits, without the algorithm before them."""
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _bit_string(der)


def _bit_string(spki: bytes) -> bytes:
    """Return the second of SubjectPublicKeyInfo's two parts (RFC 5280 section 4.1)."""
    inside = _content(spki, 0)[0]
    _, after = _content(inside, 0)
    return _content(inside, after)[0][1:]  # before the bits stands how many of the last byte are none


def _content(der: bytes, at: int) -> tuple[bytes, int]:
    """Return what an element holds, and where the next one begins."""
    size, begin = der[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(der[at + 2 : begin])
    return der[begin : begin + size], begin + size


def _verify(signer: x509.Certificate, answer: ocsp.OCSPResponse) -> None:
    signed, signature = answer.tbs_response_bytes, answer.signature
    algorithm = answer.signature_hash_algorithm
    match signer.public_key():
        case rsa.RSAPublicKey() as key if algorithm is not None:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        case ec.EllipticCurvePublicKey() as key if algorithm is not None:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        case ed25519.Ed25519PublicKey() as key:
            key.verify(signature, signed)
        case _:
            raise UnsupportedAlgorithm("a key that signs no OCSP response here")
