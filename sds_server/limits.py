"""What CAs allow in which time: their rate limits as data, one table.

As their pages say. What a CA says by a 429 is believed before this. And what they certify at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from acme_engine.names import is_address


class Counted(StrEnum):
    """What a limit counts, and of whom."""

    ORDERS = "orders"
    """New orders of the account."""
    DOMAIN = "domain"
    """Certificates of a registered domain."""
    NAMES = "names"
    """Certificates of exactly the same names."""
    FAILURES = "failures"
    """Failed validations of a name."""
    ACCOUNTS = "accounts"
    """New accounts."""


class Exempt(StrEnum):
    """Which renewals a limit does not count."""

    NONE = "none"
    REPLACING = "replacing"
    """Those whose order names its predecessor (RFC 9773 section 5)."""
    RENEWING = "renewing"
    """These, and all of the same names as one that was issued before."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many in such a time, as a bucket that fills up evenly.

    ``said``: what stands in the CA's words when this limit is reached, by which its 429 is known.
    """

    count: int
    period: timedelta
    exempt: Exempt = Exempt.NONE
    said: str | None = None

    @property
    def cost(self) -> timedelta:
        """How long one takes to come back."""
        return self.period / self.count


Limits = Mapping[Counted, Limit]


@dataclass(frozen=True, slots=True)
class Preset:
    """A CA's limits; ``directories``: how its directory's URL begins.

    ``requests_per_s``: of one replica; under what the CA takes from one address. ``requests_of_per_s``: the
    same of resources that it takes fewer of, by their names in the directory. ``most_names``: in a
    certificate of a profile, where those are fewer than in others; ``addresses``: the profiles in which it
    certifies those, None: nobody knows.
    """

    limits: Limits = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    requests_per_s: int | None = None
    requests_of_per_s: Mapping[str, int] = field(default_factory=dict)
    most_names: Mapping[str, int] = field(default_factory=dict)
    addresses: frozenset[str] | None = None


_HOURS, _DAYS = timedelta(hours=1), timedelta(days=1)

_LETS_ENCRYPT: Final[Limits] = MappingProxyType(
    {
        Counted.ORDERS: Limit(300, 3 * _HOURS, Exempt.RENEWING, "too many new orders"),
        Counted.DOMAIN: Limit(50, 7 * _DAYS, Exempt.RENEWING, 'already issued for "'),
        Counted.NAMES: Limit(5, 7 * _DAYS, Exempt.REPLACING, "exact set of"),
        Counted.FAILURES: Limit(5, _HOURS, said="too many failed authorizations"),
        Counted.ACCOUNTS: Limit(10, 3 * _HOURS, said="too many new registrations"),
    }
)

# Of newNonce it takes 20 a second, of revokeCert 10, of newAccount 5; of newOrder more than of all together.
_LETS_ENCRYPT_REQUESTS: Final[Mapping[str, int]] = MappingProxyType(
    {"newNonce": 15, "revokeCert": 8, "newAccount": 4}
)

# https://letsencrypt.org/docs/profiles/
_LETS_ENCRYPT_NAMES: Final[Mapping[str, int]] = MappingProxyType({"tlsserver": 25, "shortlived": 25})
_LETS_ENCRYPT_ADDRESSES: Final = frozenset({"shortlived"})

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        # https://letsencrypt.org/docs/rate-limits/: 250 requests a second, of one address
        "letsencrypt": Preset(
            _LETS_ENCRYPT,
            ("https://acme-v02.api.letsencrypt.org/",),
            100,
            _LETS_ENCRYPT_REQUESTS,
            _LETS_ENCRYPT_NAMES,
            _LETS_ENCRYPT_ADDRESSES,
        ),
        # https://letsencrypt.org/docs/staging-environment/: 20 requests a second
        "letsencrypt-staging": Preset(
            MappingProxyType(
                {
                    **_LETS_ENCRYPT,
                    Counted.ORDERS: Limit(1500, 3 * _HOURS, Exempt.RENEWING, "too many new orders"),
                    Counted.DOMAIN: Limit(30_000, 7 * _DAYS, Exempt.RENEWING, 'already issued for "'),
                    Counted.NAMES: Limit(30_000, 7 * _DAYS, Exempt.REPLACING, "exact set of"),
                    Counted.FAILURES: Limit(200, _HOURS, said="too many failed authorizations"),
                    Counted.ACCOUNTS: Limit(50, 3 * _HOURS, said="too many new registrations"),
                }
            ),
            ("https://acme-staging-v02.api.letsencrypt.org/",),
            10,
            _LETS_ENCRYPT_REQUESTS,
            _LETS_ENCRYPT_NAMES,
            _LETS_ENCRYPT_ADDRESSES,
        ),
        # No limit of certificates; clients that are known to work keep to 7 requests a second.
        "zerossl": Preset(directories=("https://acme.zerossl.com/",), requests_per_s=7),
        # Its quotas are each project's own; their 429s are obeyed.
        "google": Preset(
            directories=("https://dv.acme-v02.api.pki.goog/", "https://dv.acme-v02.test-api.pki.goog/"),
            requests_per_s=10,
        ),
        # step-ca and others of one's own: certificates may live for minutes, and nobody counts.
        "off": Preset(),
    }
)

OFF: Final = PRESETS["off"]


def of_directory(url: str) -> Preset:
    """Return what is known of the CA at this directory; nothing is limited at one that nobody knows."""
    known = (preset for preset in PRESETS.values() if url.startswith(preset.directories))
    return next(known, OFF)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a CA takes no order for such names, and what it would take."""

    said: str
    hint: str


def refusal(
    names: Sequence[str], preset: Preset, *, profile: str | None, required: bool = True
) -> Refusal | None:
    """Return why these names are not ordered; None: nothing that is known of the CA is against it.

    A ``profile`` that is not ``required`` is gone without where the CA will not have it.
    """
    profiles = {profile} if required else {profile, None}
    address = next(filter(is_address, names), None)
    if address is not None and preset.addresses is not None and not preset.addresses & profiles:
        known = " or ".join(sorted(preset.addresses))
        return Refusal(
            f"{address}: the CA certifies addresses in the profile {known} alone",
            "give the issuer that `profile`, or have the address in a secret of another one",
        )
    most = max(preset.most_names.get(each or "", len(names)) for each in profiles)
    if len(names) > most:
        return Refusal(
            f"has {len(names)} names; the CA takes {most} in a certificate of the profile {profile}",
            "make several secrets, or use an issuer of another profile",
        )
    return None
