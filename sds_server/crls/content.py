"""Revocation lists (CRLs, RFC 5280 section 5): which one tells of a certificate, and what it says. Pure.

A list comes over plain HTTP from wherever the certificate says: nothing of it is believed that the CA has not
signed, about these very certificates, for now.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from acme_engine import chain as chains
from sds_server.staples.response import issuer_of, web_url

SKEW: Final = timedelta(minutes=5)
"""By how much a CA's clock may be ahead of ours."""

EVERY: Final = timedelta(hours=6)
"""A list is looked at again, though it may say that it holds for a week: CAs publish the next one within a
day of a revocation. What has not changed is not sent again."""

SOONEST: Final = timedelta(minutes=1)
SPREAD: Final = 0.1

_PEM: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class Point:
    """Where the list is that tells of a leaf, and its issuer's certificate (DER), whose key signs it."""

    url: str
    issuer: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """That a certificate is revoked, since when, and the CA's reason code."""

    at: datetime
    code: str | None

    @property
    def said(self) -> str:
        """Say it."""
        return (
            f"revoked at {self.at:%FT%TZ}{'' if self.code is None else f' ({self.code})'}, says its CA's CRL"
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list says of those that were looked for, by serial number."""

    this_update: datetime
    next_update: datetime | None
    revoked: Mapping[int, Entry]


def point_of(chain: chains.Chain, roots: Sequence[x509.Certificate] = ()) -> Point | None:
    """Return where the list is that tells of the chain's leaf; None: it names none that could be used.

    Not used is a list that somebody else signs (``cRLIssuer``), or that knows some reasons only.
    ``roots``: as for `staples.response.responder_of`.
    """
    try:
        points = chain.leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return None
    urls = [
        name.value
        for point in points
        if point.crl_issuer is None and point.reasons is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    ]
    url, issuer = web_url(urls), issuer_of(chain, roots)
    return None if url is None or issuer is None else Point(url, issuer)


def judge(raw: bytes, point: Point, *, wanted: Collection[int], now: datetime) -> Listed | str:
    """Return what a list says of the ``wanted`` serial numbers, or why it is not believed.

    Takes as long as the list is: a hundred thousand entries are a second.
    """
    try:
        crl = x509.load_pem_x509_crl(raw) if raw.startswith(_PEM) else x509.load_der_x509_crl(raw)
        why = _foreign(crl, point) or _outdated(crl, now)
        if why is not None:
            return why
        revoked = {entry.serial_number: _entry(entry) for entry in crl if entry.serial_number in wanted}
        return Listed(crl.last_update_utc, crl.next_update_utc, revoked)
    except (*chains.UNREADABLE, TypeError):
        return "it is no CRL that can be read"


def next_in(listed: Listed, *, now: datetime, jitter: float) -> timedelta:
    """Return how long until the next one is looked for, spread by ``jitter`` of [0, 1)."""
    pause = EVERY * (1 - SPREAD * jitter)
    if listed.next_update is not None:
        pause = min(pause, listed.next_update - now)
    return max(pause, SOONEST)


def _foreign(crl: x509.CertificateRevocationList, point: Point) -> str | None:
    """Return why it does not tell of the point's certificates (RFC 5280 section 6.3.3)."""
    issuer = x509.load_der_x509_certificate(point.issuer)
    if crl.issuer != issuer.subject:
        return f"it is of {crl.issuer.rfc4514_string()}, not of the issuer"
    if not _may_sign(issuer) or not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]  # other keys raise
        return "its signature is not the issuer's"
    for extension in crl.extensions:
        match extension.value:
            case x509.IssuingDistributionPoint() as scope:
                if (why := _out_of_scope(scope, point.url)) is not None:
                    return why
            case x509.DeltaCRLIndicator():
                return "it says only what has changed"
            case _ if extension.critical:
                # "If a CRL contains a critical extension that the application cannot process, then the
                # application MUST NOT use that CRL to determine the status of certificates" (section 5.2).
                return f"it has a critical extension that is not understood: {extension.oid.dotted_string}"
    return None


def _may_sign(issuer: x509.Certificate) -> bool:
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _out_of_scope(scope: x509.IssuingDistributionPoint, url: str) -> str | None:
    """Return why a list that is a part of what its CA says is not our part.

    Another part of the same CA is as well signed, and does not list what ours does: whoever is on the way
    could hide a revocation by it.
    """
    if scope.indirect_crl:
        return "it is an indirect one, which lists what others have issued"
    if scope.only_contains_ca_certs or scope.only_contains_attribute_certs or scope.only_some_reasons:
        return "it does not tell of all revocations of servers' certificates"
    names = [name.value for name in scope.full_name or () if isinstance(name, x509.UniformResourceIdentifier)]
    if scope.relative_name is not None or (scope.full_name is not None and url not in names):
        return f"it is for {', '.join(names) or 'another place'}"
    return None


def _outdated(crl: x509.CertificateRevocationList, now: datetime) -> str | None:
    if crl.last_update_utc > now + SKEW:
        return f"it is of the future: {crl.last_update_utc:%FT%TZ}"
    if crl.next_update_utc is not None and crl.next_update_utc <= now:
        return f"it ended at {crl.next_update_utc:%FT%TZ}"
    return None


def _entry(entry: x509.RevokedCertificate) -> Entry:
    try:
        code = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        code = None
    return Entry(entry.revocation_date_utc, code)
