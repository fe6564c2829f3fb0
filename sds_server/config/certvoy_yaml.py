"""Configuration: one YAML file, read into models that cannot be wrong.

`load` reports every error at once, each with its place in the file and what to do. A relative path begins at
the file's directory. Files that must exist are looked for here, so that a start-up does not end half-way.
"""

import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sds_server.config.dns import MODELS as DNS_MODELS
from sds_server.config.dns import AnyKey
from sds_server.config.file import Model, read, with_durations
from sds_server.config.issuers import EabConfig, IssuerConfig
from sds_server.config.kms import KekConfig, KmsConfig, with_key_file
from sds_server.config.listeners import (
    AdminClientConfig,
    AdminConfig,
    EnrolmentConfig,
    Http01Config,
    MetricsConfig,
    SdsConfig,
    SocketConfig,
    TlsAlpn01Config,
)
from sds_server.config.secrets import GrantConfig, OnDemandConfig, SecretConfig
from sds_server.config.values import (
    AddressRange,
    DatabaseUrl,
    Duration,
    File,
    FilePath,
    NameOfIssuer,
    NameOfSecret,
    Some,
    Wrong,
    spelt,
)
from sds_server.config.yaml_lines import shown

DEFAULT_STATE_DIR = "./certvoy-state"
HISTORY_MIN = timedelta(days=30)


class PushConfig(Model):
    """Where certvoy may connect to agents that take pushed bundles (``certvoy targets add --push``).

    Public addresses need no entry; addresses of instance metadata are never connected to.
    """

    allow: tuple[AddressRange, ...] = ()
    """Ranges of private, loopback and other special addresses at which there are agents."""


class RotationConfig(Model):
    """The times of a Rotation."""

    seen_for: Duration = timedelta(minutes=10)
    """How long a Target that was seen stays in the live set."""

    settle: Duration = timedelta(seconds=30)
    """How long after start-up before an empty live set is believed."""

    watch: Duration = timedelta(minutes=5)
    """How often a Target is looked at after its Rotation is over: does it still serve what it should?"""

    history: Duration = timedelta(days=365)
    """How long what is finished is kept: rotations, and their orders. 30 days or more; the audit has them for
    ever, and certificates stay."""

    lease: Duration = timedelta(seconds=60)
    """How long a worker that died keeps others from its Rotation."""

    poll: Duration = timedelta(seconds=1)
    """How often a worker looks for work that no notification told it of."""

    @field_validator("history")
    @classmethod
    def _counts(cls, kept: timedelta) -> timedelta:
        if kept < HISTORY_MIN:
            raise Wrong("is too short", f"{spelt(HISTORY_MIN)} or more: limits of CAs look back so far")
        return kept


class AuditConfig(Model):
    """What proves that nobody has rewritten the audit; each replica has its own."""

    key: FilePath
    """The Ed25519 key that signs the audit's checkpoints, made at the first start: ``audit-key.pem`` in
    ``state_dir`` by default. Verifiers want what lies beside it, ``audit-key.pub``."""

    checkpoints: FilePath
    """The file of checkpoints that were seen: ``audit-checkpoints.jsonl`` in ``state_dir`` by default. Copy
    it to where nobody who administers the database can write."""


class LogConfig(Model):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is worth a line."""


class Config(Model):
    """The whole file."""

    database: DatabaseUrl = Field(repr=False)
    """``embedded``, a PostgreSQL URL, or ``file:`` with the path of a file that holds one."""

    state_dir: FilePath
    """The KEK, the admin socket and the embedded database: back it up."""

    replica: str = Field(default_factory=socket.gethostname, min_length=1)
    """This process's name in logs, leases and audit; unique; the machine's by default."""

    kms: KmsConfig
    issuers: Some[Mapping[NameOfIssuer, IssuerConfig]]
    http01: Http01Config
    tls_alpn01: TlsAlpn01Config | None = Field(None, validate_default=True)
    sds: SdsConfig
    admin: AdminConfig = AdminConfig()
    metrics: MetricsConfig = MetricsConfig()
    secrets: Mapping[NameOfSecret, SecretConfig] = {}
    grants: tuple[GrantConfig, ...] = ()
    on_demand: tuple[OnDemandConfig, ...] = ()
    enrolment: EnrolmentConfig = EnrolmentConfig()
    push: PushConfig = PushConfig()
    rotation: RotationConfig = RotationConfig()
    log: LogConfig = LogConfig()
    audit: AuditConfig

    @field_validator("tls_alpn01")
    @classmethod
    def _is_wanted(
        cls, section: TlsAlpn01Config | None, info: ValidationInfo[File]
    ) -> TlsAlpn01Config | None:
        wanted = [
            name
            for name, issuer in info.data.get("issuers", {}).items()
            if "tls-alpn-01" in {issuer.challenge, *issuer.challenges.values()}
        ]
        if section is None and wanted:
            raise Wrong(
                f"is missing, and issuer {wanted[0]} has names proved by tls-alpn-01",
                "say where what has port 443 sends it: `tls_alpn01: {listen: 127.0.0.1:8444}`",
            )
        return section

    @field_validator("secrets")
    @classmethod
    def _are_certified(
        cls, declared: Mapping[str, SecretConfig], info: ValidationInfo[File]
    ) -> Mapping[str, SecretConfig]:
        issuers: Mapping[str, IssuerConfig] = info.data.get("issuers", {})
        for name, secret in declared.items():
            for issuer in filter(None, (secret.issuer, *secret.fallback)):
                wrong = issuers[issuer].refuses(secret.domains or ()) if issuer in issuers else None
                if wrong is not None:
                    raise Wrong(f"{name}: domains: {wrong.said} ({issuer})", wrong.hint)
        return declared

    @field_validator("on_demand")
    @classmethod
    def _called_apart(cls, rules: tuple[OnDemandConfig, ...]) -> tuple[OnDemandConfig, ...]:
        names = [rule.name for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise Wrong(f"two rules are called {shown(name)}", "call each otherwise")
        return rules

    @model_validator(mode="before")
    @classmethod
    def _with_places(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Put in the defaults that are relative to the file, or to each other."""
        state_dir = raw.get("state_dir", DEFAULT_STATE_DIR)
        kms = raw.get("kms", {})
        if isinstance(kms, dict):
            kms = with_key_file(kms, state_dir)
        audit = raw.get("audit", {})
        if isinstance(audit, dict):
            files = {"key": "audit-key.pem", "checkpoints": "audit-checkpoints.jsonl"}
            audit = {key: f"{state_dir}/{name}" for key, name in files.items()} | audit
        return {**raw, "state_dir": state_dir, "kms": kms, "audit": audit}


def load(path: Path) -> Config:
    """Read the file.

    Raises:
        ConfigError: the message holds all errors, one a line: ``path: message (line N); next step``.
    """

    def context(raw: Mapping[str, Any]) -> File:
        issuers = raw.get("issuers")
        declared = issuers if isinstance(issuers, dict) else {}
        over_dns = [name for name, issuer in declared.items() if isinstance(issuer, dict) and "dns" in issuer]
        return File(path.absolute().parent, [*declared], over_dns)

    return read(path, Config, context=context, sections=_SECTIONS, begin="database: embedded")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file; what it cannot say (that a file exists) `load` says."""
    described = Config.model_json_schema()
    described["required"] = [key for key in described["required"] if key not in {"state_dir", "kms", "audit"}]
    del described["$defs"]["AuditConfig"]["required"]
    with_durations(
        described, RotationConfig, EnrolmentConfig, SdsConfig, OnDemandConfig, *DNS_MODELS.values()
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "certvoy.yaml"} | described


_SECTIONS: Mapping[tuple[str, ...], type[Model]] = {
    ("",): Config,
    ("kms",): KmsConfig,
    ("kms", "previous"): KekConfig,
    ("issuers",): IssuerConfig,  # the name of the issuer is left out
    ("issuers", "eab"): EabConfig,
    ("issuers", "dns"): AnyKey,
    ("http01",): Http01Config,
    ("tls_alpn01",): TlsAlpn01Config,
    ("sds",): SdsConfig,
    ("sds", "sockets"): SocketConfig,
    ("admin",): AdminConfig,
    ("admin", "clients"): AdminClientConfig,
    ("metrics",): MetricsConfig,
    ("secrets",): SecretConfig,
    ("grants",): GrantConfig,
    ("on_demand",): OnDemandConfig,
    ("enrolment",): EnrolmentConfig,
    ("push",): PushConfig,
    ("rotation",): RotationConfig,
    ("log",): LogConfig,
    ("audit",): AuditConfig,
}
