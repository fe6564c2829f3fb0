"""Trust bundles: whose certificates a proxy believes, and what else those must fulfil. Pure.

Envoy takes almost anything here, and what it takes wrongly ends in one of two ways (measured on 1.40): an
empty bundle is accepted and switches client verification off; a CRL that is garbage or over is accepted and
fails every handshake. So the gate is stricter than Envoy.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.errors import GateRefused
from sds_server.pem import BLOCK

CAS_MAX: Final = 200
BYTES_MAX: Final = 512 * 1024
"""Of CAs and CRLs together: every proxy holds it, once for each TLS context that names it."""

DEPTH_MAX: Final = 100
PIN_BYTES: Final = 32
HASH_HEX: Final = 64

_HEX = re.compile(rf"[0-9a-f]{{{HASH_HEX}}}")
# What Python takes in a pattern and RE2, which Envoy has, does not: looks around, and back.
_NOT_RE2 = re.compile(r"\(\?(?:[=!]|<[=!]|>)|\\[1-9]")


E = TypeVar("E", bound=x509.ExtensionType)


class SanType(StrEnum):
    """What kind of name of a certificate is matched."""

    DNS = "dns"
    URI = "uri"
    EMAIL = "email"
    IP = "ip"


class Match(StrEnum):
    """How it is matched."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class SanMatcher:
    """A subject alternative name that a certificate must have, or one of several such."""

    type: SanType
    match: Match
    value: str


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """CAs, and what else a certificate must be that they have signed; all PEM is as we write it.

    ``crls``: revocation lists; ``leaf_crl_only``: only the leaf's issuer needs one. ``sans``: one of these
    must be among a certificate's names. ``spki_pins`` (base64 of a SHA-256 of the public key) and
    ``fingerprints`` (hex of a certificate's SHA-256): one of all these must be the leaf's.
    """

    cas: tuple[str, ...]
    crls: tuple[str, ...] = ()
    sans: tuple[SanMatcher, ...] = ()
    spki_pins: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    leaf_crl_only: bool = False
    max_depth: int | None = None

    @classmethod
    def read(cls, cas_pem: str, crls_pem: str = "", **more: Any) -> Self:
        """Read PEM files as people have them; ``more`` is the bundle's other fields.

        Raises:
            GateRefused: rule pem or size; the message says which block it is.
        """
        if len(cas_pem) + len(crls_pem) > BYTES_MAX:
            raise GateRefused("size", f"the bundle has more than {BYTES_MAX >> 10} KiB", hint="send less")
        cas = [_pem(certificate) for certificate in _certificates(cas_pem)]
        return cls(cas=tuple(dict.fromkeys(cas)), crls=tuple(_crls(crls_pem)), **more)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `text` writes."""
        raw = json.loads(text)
        sans = tuple(SanMatcher(SanType(s["type"]), Match(s["match"]), s["value"]) for s in raw["sans"])
        lists = {key: tuple(raw[key]) for key in ("cas", "crls", "spki_pins", "fingerprints")}
        return cls(**lists, sans=sans, leaf_crl_only=raw["leaf_crl_only"], max_depth=raw["max_depth"])

    @property
    def text(self) -> str:
        """Return it as the inventory keeps it; equal bundles give equal texts."""
        fields = {
            "cas": self.cas,
            "crls": self.crls,
            "sans": [{"type": s.type, "match": s.match, "value": s.value} for s in self.sans],
            "spki_pins": self.spki_pins,
            "fingerprints": self.fingerprints,
            "leaf_crl_only": self.leaf_crl_only,
            "max_depth": self.max_depth,
        }
        return json.dumps(fields, separators=(",", ":"))

    @property
    def authorities(self) -> Sequence[x509.Certificate]:
        """Return the CAs, parsed."""
        return [x509.load_pem_x509_certificate(ca.encode()) for ca in self.cas]

    @property
    def not_after(self) -> datetime:
        """Return when the first part of it ends: a CA or a CRL."""
        ends = [ca.not_valid_after_utc for ca in self.authorities]
        lists = [x509.load_pem_x509_crl(crl.encode()).next_update_utc for crl in self.crls]
        return min([*ends, *(end for end in lists if end is not None)])

    def with_cas(self, cas_pem: str) -> Self:
        """Return the union with more CAs, those first: Envoy's ``/certs`` shows the first one of a bundle.

        Raises:
            GateRefused: rule pem.
        """
        more = [_pem(certificate) for certificate in _certificates(cas_pem)]
        return replace(self, cas=tuple(dict.fromkeys([*more, *self.cas])))

    def without_ca(self, fingerprint: str) -> Self:
        """Return it without one CA and that one's CRL; unchanged if it has none with that fingerprint."""
        gone = [ca for ca in self.authorities if fingerprint_of(ca) == fingerprint]
        names = {ca.subject for ca in gone} - {
            ca.subject for ca in self.authorities if fingerprint_of(ca) != fingerprint
        }
        kept = tuple(pem for pem, ca in zip(self.cas, self.authorities, strict=True) if ca not in gone)
        crls = tuple(c for c in self.crls if x509.load_pem_x509_crl(c.encode()).issuer not in names)
        return replace(self, cas=kept, crls=crls)


def serials_of(text: str | None) -> frozenset[int]:
    """Return the serial numbers of the CAs of a bundle as the inventory keeps it; none of none."""
    if text is None:
        return frozenset()
    return frozenset(ca.serial_number for ca in TrustBundle.from_text(text).authorities)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the lower-case hex SHA-256 of its DER."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def check(bundle: TrustBundle, *, now: datetime | None) -> None:
    """Let a bundle pass that a proxy may be given.

    ``now`` None: dates are not asked. What has been served is served on, to a proxy that starts anew as well:
    a CA that is over harms nobody, and a proxy without its bundle serves nobody.

    Raises:
        GateRefused: ``rule`` is the first that is broken: empty, size, ca, dates, crl, pin, san or depth.
    """
    if not bundle.cas:
        hint = "a bundle without a CA would switch client verification off: send at least one"
        raise GateRefused("empty", "there is no CA in the bundle", hint=hint)
    if len(bundle.cas) > CAS_MAX or sum(map(len, (*bundle.cas, *bundle.crls))) > BYTES_MAX:
        said = f"the bundle has {len(bundle.cas)} CAs; at most {CAS_MAX} and {BYTES_MAX >> 10} KiB are taken"
        raise GateRefused("size", said, hint="leave out CAs that issue nobody's certificates")
    for number, ca in enumerate(bundle.authorities, 1):
        _check_ca(ca, f"CA {number} ({ca.subject.rfc4514_string() or fingerprint_of(ca)[:16]})", now)
    _check_crls(bundle, now)
    _check_pins(bundle)
    for matcher in bundle.sans:
        _check_san(matcher)
    if bundle.max_depth is not None and not 0 <= bundle.max_depth <= DEPTH_MAX:
        raise GateRefused("depth", f"max_depth: must be 0 to {DEPTH_MAX}", hint="leave it out")


def _check_ca(ca: x509.Certificate, which: str, now: datetime | None) -> None:
    try:
        constraints, usage = _extension(ca, x509.BasicConstraints), _extension(ca, x509.KeyUsage)
    except ValueError:
        raise GateRefused("ca", f"{which}: its extensions cannot be read", hint="get it anew") from None
    if constraints is None or not constraints.ca:
        hint = "send the certificate of the CA that issues your clients' certificates"
        raise GateRefused("ca", f"{which}: it is no CA's", hint=hint)
    if usage is not None and not usage.key_cert_sign:
        raise GateRefused("ca", f"{which}: its key may not sign certificates", hint="send the CA's own")
    if now is not None and ca.not_valid_after_utc <= now:
        ended = f"{ca.not_valid_after_utc:%FT%TZ}"
        raise GateRefused(
            "dates", f"{which}: it ended at {ended}", hint="leave it out, or send its successor"
        )


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_crls(bundle: TrustBundle, now: datetime | None) -> None:
    authorities = bundle.authorities
    listed: list[x509.Name] = []
    for number, pem in enumerate(bundle.crls, 1):
        crl = x509.load_pem_x509_crl(pem.encode())
        which = f"CRL {number} ({crl.issuer.rfc4514_string()})"
        if crl.issuer in listed:
            raise GateRefused("crl", f"{which}: there are two of this CA", hint="send the newer one alone")
        listed.append(crl.issuer)
        signers = [ca for ca in authorities if ca.subject == crl.issuer]
        if not any(_signed_by(crl, ca) for ca in signers):
            raise GateRefused(
                "crl", f"{which}: no CA of the bundle has signed it", hint="send that CA as well"
            )
        if crl.next_update_utc is None:
            raise GateRefused("crl", f"{which}: it does not say until when it is good", hint="set nextUpdate")
        if now is not None and not crl.last_update_utc <= now < crl.next_update_utc:
            when = f"it is good from {crl.last_update_utc:%FT%TZ} until {crl.next_update_utc:%FT%TZ}"
            hint = "get a fresh one: with this one Envoy would refuse every client"
            raise GateRefused("crl", f"{which}: {when}", hint=hint)
    if listed and not bundle.leaf_crl_only:
        for ca in authorities:
            if ca.subject not in listed:
                said = f"there is no CRL of the CA {ca.subject.rfc4514_string()}"
                hint = "send one of each CA, or check the leaf's issuer alone: leaf_crl_only"
                raise GateRefused("crl", said, hint=hint)


def _signed_by(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # other keys raise
    except (TypeError, ValueError):
        return False


def _check_pins(bundle: TrustBundle) -> None:
    for pin in bundle.spki_pins:
        try:
            length = len(base64.b64decode(pin, validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != PIN_BYTES:
            said = f'spki_pins: "{pin[:50]}" is not the base64 of {PIN_BYTES} bytes'
            hint = "openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64"
            raise GateRefused("pin", said, hint=hint)
    for fingerprint in bundle.fingerprints:
        if _HEX.fullmatch(fingerprint) is None:
            said = f'fingerprints: "{fingerprint[:70]}" is not {HASH_HEX} lower-case hex digits'
            raise GateRefused("pin", said, hint="write the SHA-256 of the certificate, without colons")


def _check_san(matcher: SanMatcher) -> None:
    if not matcher.value:
        raise GateRefused("san", "sans: a value is empty", hint="write what the name must be")
    if matcher.match is Match.REGEX:
        try:
            re.compile(matcher.value)
        except re.error as e:
            raise GateRefused("san", f"sans: {matcher.value[:50]}: {e}", hint="write it as RE2") from None
        if _NOT_RE2.search(matcher.value):
            said = f"sans: {matcher.value[:50]}: Envoy's RE2 looks neither around nor back"
            raise GateRefused("san", said, hint="write it without (?=...), (?<...) and \\1")


def _certificates(pem: str) -> Iterable[x509.Certificate]:
    for number, block in enumerate(BLOCK.finditer(pem), 1):
        if block[1] != "CERTIFICATE":
            said = f"block {number} is a {block[1]}, not a CERTIFICATE"
            raise GateRefused("pem", said, hint="send the CAs' certificates alone, and never a private key")
        try:
            yield x509.load_pem_x509_certificate(block[0].encode())
        except ValueError:
            raise GateRefused("pem", f"certificate {number} cannot be read", hint="send PEM") from None


def _crls(pem: str) -> Iterable[str]:
    blocks = list(BLOCK.finditer(pem))
    if pem.strip() and not blocks:
        raise GateRefused("crl", "there is no X509 CRL block", hint="send PEM: openssl crl -inform DER")
    for number, block in enumerate(blocks, 1):
        try:
            crl = x509.load_pem_x509_crl(block[0].encode())
        except ValueError:
            raise GateRefused("crl", f"CRL {number} cannot be read", hint="send PEM") from None
        yield crl.public_bytes(Encoding.PEM).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
