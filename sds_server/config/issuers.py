"""Sections of `certvoy.yaml` about CAs: ``issuers``."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from pydantic import (
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
)

from sds_server.config.dns import ChallengeType, Dns, NameOrSuffix
from sds_server.config.file import Model
from sds_server.config.limits import LimitsOf
from sds_server.config.values import (
    Contact,
    DirectoryUrl,
    Duration,
    ExistingFile,
    File,
    Wrong,
    spelt,
)
from sds_server.limits import Refusal, of_directory, refusal


class EabConfig(Model):
    """External account binding (RFC 8555 section 7.3.4); the file holds the key in base64url."""

    kid: str = Field(min_length=1)
    """The key's id, as the CA gave it."""

    hmac_key_file: ExistingFile
    """A file that holds the HMAC key in base64url."""

    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    """How the CA wants the binding signed."""


class ProfileConfig(Model):
    """A kind of certificate that the CA's directory lists, such as Let's Encrypt's ``shortlived``."""

    name: str = Field(min_length=1, max_length=100)
    """Its name in the directory."""

    required: StrictBool = False
    """Whether nothing is ordered without it; else the CA's own default will do."""


class SpacingConfig(Model):
    """How often the same names may be ordered, so that the CA counts nothing against them.

    ``certvoy rotate`` does not wait for it.
    """

    least: Duration = timedelta(hours=1)
    """Between two certificates for the same names."""

    certificates: int = Field(4, ge=1)
    """So many for the same names at most, within ``per``."""

    per: Duration = timedelta(days=7)
    """In which those are counted."""

    failures_per_hour: int = Field(4, ge=1)
    """So many failed validations of one name at most."""


class IssuerConfig(Model):
    """An ACME directory and our account there."""

    directory: DirectoryUrl
    """The ACME directory's https URL."""

    ca_file: ExistingFile | None = None
    """PEM roots by which the directory's HTTPS is trusted; the system's by default."""

    roots_file: ExistingFile | None = None
    """PEM roots to which issued chains must build; unchecked by default."""

    contact: tuple[Contact, ...] = ()
    """``mailto:`` URLs that the CA may write to."""

    terms_agreed: StrictBool = False
    """Whether you agree to the CA's terms of service."""

    staple: Literal["auto", "off"] = "auto"
    """OCSP staples: ``auto`` fetches them where its certificates name a responder, ``off`` never."""

    crl: Literal["auto", "off"] = "auto"
    """Revocation lists: ``auto`` looks whether the CA has revoked a certificate in the list that this names,
    ``off`` never."""

    eab: EabConfig | None = None
    """The account that this one is bound to, where the CA asks for it."""

    profile: ProfileConfig | None = None
    """The profile that is ordered; the CA's own default by default."""

    lifetime: Duration | None = Field(None, validate_default=True)
    """How long certificates shall live, where the CA lets an order say so; the CA chooses by default."""

    backdate: Duration | None = None
    """How long before the order certificates shall begin, for clients whose clocks are behind, where the CA
    lets an order say so: shorter than half of ``lifetime``, which it needs. The CA chooses by default."""

    limits: LimitsOf = None
    """What the CA takes in which time: ``auto`` by its directory, ``off``, the name of a CA that is known, or
    rates of your own, such as ``{orders: 300/3h, domain: 50/7d}``."""

    in_flight: int = Field(8, ge=1)
    """So many orders at once, of all replicas together."""

    spacing: SpacingConfig | None = None
    """What the CA counts; what is known of it by default: of public CAs, and nothing of internal ones."""

    preferred_chain: str | None = Field(None, min_length=1)
    """The common name of an issuer of the chain that is taken, its root by habit, or ``smallest``."""

    dns: Dns = None
    """Where DNS-01 writes, which alone proves wildcards; without it there is HTTP-01 only."""

    challenge: ChallengeType = "http-01"
    """How names are proved; wildcards always by DNS. Two are drafts: ``dns-account-01`` is DNS-01 at a name
    that is our account's own; for ``dns-persist-01`` a record that stands names our account, and nothing is
    written. ``certvoy dns-records`` prints both."""

    challenges: Mapping[NameOrSuffix, ChallengeType] = {}
    """The same for some names: a name, or ``*.example.com`` for all below it, and how those are proved."""

    def refuses(self, names: Sequence[str]) -> Refusal | None:
        """Return why the CA takes no order for these names, however proved; None: it may take one."""
        profile = self.profile
        return refusal(
            names,
            self.limits or of_directory(self.directory),
            profile=None if profile is None else profile.name,
            required=profile is None or profile.required,
        )

    @field_validator("backdate")
    @classmethod
    def _leaves_time(cls, chosen: timedelta | None, info: ValidationInfo[File]) -> timedelta | None:
        if chosen is None or "lifetime" not in info.data:
            return chosen
        lifetime = info.data["lifetime"]
        if lifetime is None:
            # Caddy, step-ca and Pebble count their own life from notBefore: it would be over so much earlier.
            raise Wrong("needs a `lifetime`", "say with `lifetime` how long after the order certificates end")
        if chosen >= lifetime / 2:
            # A short certificate is due when half of its life is over, which counts from notBefore.
            raise Wrong(
                f"is {spelt(chosen)}: at half of `lifetime` or more, certificates are due as soon as issued",
                f"write less than {spelt(lifetime / 2)}",
            )
        return chosen

    @field_validator("challenge", "challenges")
    @classmethod
    def _has_dns(cls, chosen: Any, info: ValidationInfo[File]) -> Any:
        named = chosen.values() if isinstance(chosen, Mapping) else [chosen]
        written = next((kind for kind in named if kind in {"dns-01", "dns-account-01"}), None)
        if written is not None and info.data.get("dns") is None and "dns" in info.data:
            raise Wrong(f"{written} needs a `dns` section", "say under `dns` who hosts the zones")
        return chosen
