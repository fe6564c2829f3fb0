"""Configuration: one YAML file, read into models that cannot be wrong.

`load` reports every error at once, each with its place in the file and what to do. A relative path begins at
the file's directory. Files that must exist are looked for here, so that a start-up does not end half-way.
"""

import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sds_server.config_dns import MODELS as DNS_MODELS
from sds_server.config_dns import AnyKey, ChallengeType, Dns, NameOrSuffix
from sds_server.config_file import Model, read, with_durations
from sds_server.config_kms import KekConfig, KmsConfig, with_key_file
from sds_server.config_limits import LimitsOf
from sds_server.config_values import (
    AddressRange,
    AskUrl,
    Contact,
    DatabaseUrl,
    DirectoryUrl,
    DnsNames,
    DnsSuffix,
    Duration,
    ExistingFile,
    File,
    FilePath,
    IdentityName,
    KeyFile,
    ListenAddress,
    NameOfIssuer,
    NameOfSecret,
    NamePattern,
    Names,
    ProofPolicy,
    ResponderAddress,
    ServerName,
    Some,
    TrustDomain,
    Wrong,
    spelt,
    unprovable,
)
from sds_server.model import KeyHolder, KeyType, Kind, Proof, Scope
from sds_server.yaml_lines import shown

DEFAULT_STATE_DIR = "./certvoy-state"
REFRESH_MIN = timedelta(seconds=1)
HISTORY_MIN = timedelta(days=30)


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

    eab: EabConfig | None = None
    """The account that this one is bound to, where the CA asks for it."""

    profile: ProfileConfig | None = None
    """The profile that is ordered; the CA's own default by default."""

    lifetime: Duration | None = Field(None, validate_default=True)
    """How long certificates shall live, where the CA lets an order say so; the CA chooses by default."""

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
    """How names are proved; wildcards always by DNS. ``dns-persist-01``, a draft: a record that stands names
    our account (``certvoy dns-records``), and nothing is written."""

    challenges: Mapping[NameOrSuffix, ChallengeType] = {}
    """The same for some names: a name, or ``*.example.com`` for all below it, and how those are proved."""

    @field_validator("challenge", "challenges")
    @classmethod
    def _has_dns(cls, chosen: Any, info: ValidationInfo[File]) -> Any:
        named = chosen.values() if isinstance(chosen, Mapping) else [chosen]
        if "dns-01" in named and info.data.get("dns") is None and "dns" in info.data:
            raise Wrong("dns-01 needs a `dns` section", "say under `dns` who hosts the zones")
        return chosen


class Http01Config(Model):
    """Where HTTP-01 challenges are answered; the CA asks on port 80, wherever that is forwarded from."""

    listen: ResponderAddress
    """The address of the responder; ``off`` where ``certvoy responder`` answers, as a user of its own."""

    webroot: FilePath | None = None
    """The root of a web server on this machine that has port 80: the answers are written there as well, below
    ``.well-known/acme-challenge``. Only for one replica: the others' tokens are not there."""


class TlsAlpn01Config(Model):
    """Where TLS-ALPN-01 challenges are answered: what has port 443 sends on what offers ``acme-tls/1``."""

    listen: ResponderAddress
    """The address of the responder, which ends TLS itself; ``off`` where ``certvoy responder`` answers."""


_Served = TypeVar("_Served", "SdsConfig", "AdminConfig")


def _pair(section: _Served) -> _Served:
    if (section.certificate is None) != (section.key is None):
        given, missing = ("key", "certificate") if section.certificate is None else ("certificate", "key")
        raise Wrong(f"has a {given}, but no {missing}", "name both, or neither: then certvoy issues its own")
    return section


class SocketConfig(Model):
    """A Unix socket for a proxy on this machine: whoever may open it is the identity, and TLS is not needed.

    Its directory has mode 0750 and is made if it is not there; the socket has 0660, and the group's members
    may open it.
    """

    path: FilePath
    """Where the socket is; its directory belongs to certvoy's user."""

    identity: IdentityName
    """Whose it is, as in ``grants``."""


class SdsConfig(Model):
    """Where Envoys connect, over mutual TLS only, or by a Unix socket.

    Clients are those that certvoy enrolled, and those with a certificate that ``client_ca`` issued. Without
    ``certificate`` and ``key`` certvoy issues its own, for ``server_names``: by default ``localhost``, this
    machine's name and the addresses that are listened on.
    """

    listen: ListenAddress
    """The address that Envoys connect to."""

    certificate: ExistingFile | None = None
    """The server's PEM chain, leaf first; certvoy issues its own by default."""

    key: ExistingFile | None = None
    """Its PEM key."""

    client_ca: ExistingFile | None = None
    """PEM roots of other client certificates, such as SPIRE's or Istio's."""

    server_names: tuple[ServerName, ...] = ()
    """The DNS names and addresses in the certificate that certvoy issues itself."""

    rest: ListenAddress | None = None
    """The address for Envoys whose ``api_type`` is ``REST``, over mutual TLS as well; none by default."""

    tokens: ListenAddress | None = None
    """The address for proxies without a client certificate: they show a token over TLS, there and at ``rest``
    (``certvoy token create --identity``); none by default, and then no token is taken."""

    sockets: tuple[SocketConfig, ...] = ()
    """Unix sockets for proxies on this machine, each for one identity."""

    deny: tuple[IdentityName, ...] = ()
    """Identities that are refused whatever certificate they show, here and by the admin API."""

    require_node: StrictBool = True
    """Whether a proxy must call itself something (``node.id``); one that need not counts as its identity."""

    streams_per_identity: int = Field(default=10_000, ge=1)
    """So many streams may one identity have open at a replica; outside of ADS each Secret is one."""

    refresh: Duration = timedelta(minutes=10)
    """How often a stream is sent again what its proxy has, give or take 30 %: heals who has lost it."""

    @field_validator("refresh")
    @classmethod
    def _no_flood(cls, every: timedelta) -> timedelta:
        if every < REFRESH_MIN:
            raise Wrong("is too short", "a second or more: each time every stream gets all of its secrets")
        return every

    @field_validator("sockets")
    @classmethod
    def _one_identity_each(cls, sockets: tuple[SocketConfig, ...]) -> tuple[SocketConfig, ...]:
        paths = [one.path for one in sockets]
        for path in paths:
            if paths.count(path) > 1:
                raise Wrong(f"{path} is there twice", "give each identity a path of its own")
        return sockets

    @model_validator(mode="after")
    def _both(self) -> "SdsConfig":
        return _pair(self)


class AdminClientConfig(Model):
    """An identity that may call the admin API with its client certificate, and what it may do."""

    identity: IdentityName
    """A SPIFFE ID, or ``dns:`` and a name, as in the client's certificate."""

    scopes: Some[tuple[Scope, ...]]
    """What it may do; ``admin`` is all of it."""


class AdminConfig(Model):
    """The admin API over TLS; on the machine itself a Unix socket in ``state_dir`` serves it anyway.

    ``certificate`` and ``key`` are by default those of ``sds``.
    """

    listen: ListenAddress | None = None
    """The TLS listener's address; without one there is only the Unix socket."""

    certificate: ExistingFile | None = None
    """The server's PEM chain, leaf first; that of ``sds`` by default."""

    key: ExistingFile | None = None
    """Its PEM key."""

    clients: tuple[AdminClientConfig, ...] = ()
    """Who may call with a client certificate, besides the holders of tokens."""

    @model_validator(mode="after")
    def _both(self) -> "AdminConfig":
        return _pair(self)


class EnrolmentConfig(Model):
    """Credentials that certvoy issues to proxies: ``spiffe://<trust_domain>/proxy/<name>``.

    No other CA is believed about names of that trust domain. Changed later, every proxy must enrol anew.
    """

    trust_domain: TrustDomain = "certvoy"
    """The trust domain of enrolled proxies."""

    lifetime: Duration = timedelta(hours=24)
    """How long a credential lasts; proxies renew it at two thirds of that."""


class MetricsConfig(Model):
    """Plain HTTP without authentication for ``/healthz``, ``/readyz`` and ``/metrics``, and nothing else."""

    listen: ListenAddress | None = None
    """An address that only your monitoring reaches; none by default."""


_OF_KIND: Mapping[Kind, tuple[str, ...]] = {
    Kind.TLS_CERTIFICATE: ("domains", "issuers", "issuer", "fallback"),
    Kind.VALIDATION_CONTEXT: ("ca_file", "crl_file", "leaf_crl_only"),
    Kind.SESSION_TICKET_KEYS: ("rotate_every", "keep"),
    Kind.GENERIC_SECRET: ("file",),
}
"""Keys that one kind of Secret has and no other."""

_OPTIONAL = frozenset({"issuers", "fallback", "crl_file", "leaf_crl_only", "keep"})

ROTATE_EVERY_MIN = timedelta(minutes=1)


def _in_order(raw: dict[str, Any]) -> dict[str, Any]:
    """Read ``issuers: [a, b]`` as ``issuer: a`` with ``fallback: [b]``."""
    names = raw["issuers"]
    besides = [key for key in ("issuer", "fallback") if key in raw]
    if besides:
        raise Wrong(f"has issuers and {besides[0]}", "write `issuers: [FIRST, NEXT]`, or the other two")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return raw  # its own field says what is wrong
    return {**raw, "issuer": names[0], "fallback": names[1:]}


class SecretConfig(Model):
    """A Secret to keep: ``domains`` in A-labels, lower case, the primary first; or what is no certificate."""

    kind: Kind = Kind.TLS_CERTIFICATE
    """What it is, for ever: each kind has keys of its own."""

    domains: Names | None = Field(None, validate_default=True)
    """The certificate's DNS names, or IP addresses."""

    issuers: Some[tuple[str, ...]] | None = Field(None, max_length=9)
    """The CAs in one list, in place of ``issuer`` and ``fallback``: the first, and those that are asked, in
    this order, where it does not deliver."""

    issuer: str | None = Field(None, validate_default=True)
    """The CA: one of ``issuers``."""

    fallback: tuple[str, ...] = Field((), max_length=8)
    """Issuers that are asked, in this order, where ``issuer`` does not deliver."""

    key_type: KeyType = KeyType.ECDSA_P256
    """The kind of key pair, made anew for each certificate."""

    proof: ProofPolicy = Proof()
    """What completes a rotation: ``all`` of the live set proved, a share of it, or ``accepted`` where nobody
    can look."""

    key_holder: KeyHolder = KeyHolder.CERTVOY
    """Who makes its private keys: ``certvoy``, or ``target``, the one agent that serves it, whose keys
    never leave their host."""

    key_file: KeyFile | None = None
    """Of ``key_holder: target``, for an Envoy: where on its disk it finds each key that its agent makes,
    ``/var/lib/certvoy-keys/www/{spki}.pem``."""

    ca_file: ExistingFile | None = Field(None, validate_default=True)
    """Of a ``validation_context``: the CAs that are trusted, PEM; read at each start."""

    crl_file: ExistingFile | None = None
    """Their revocation lists, PEM: one of each CA."""

    leaf_crl_only: StrictBool = False
    """Only the leaf's issuer needs a revocation list."""

    rotate_every: Duration | None = Field(None, validate_default=True)
    """Of ``session_ticket_keys``: how often certvoy makes a new one."""

    keep: int = Field(3, ge=1, le=16)
    """So many ticket keys in all: tickets of the older ones are still good."""

    file: ExistingFile | None = Field(None, validate_default=True)
    """Of a ``generic_secret``: what it holds, byte for byte; read at each start."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, raw: Any) -> Any:
        """Refuse keys of another kind; what kind it is says the file, or it is a certificate."""
        kind = raw.get("kind", Kind.TLS_CERTIFICATE) if isinstance(raw, dict) else None
        if kind not in {*Kind}:
            return raw
        others = [key for other, keys in _OF_KIND.items() if other != kind for key in keys if key in raw]
        if others:
            known = ", ".join(_OF_KIND[Kind(str(kind))])
            raise Wrong(f"a {kind} has no {others[0]}", f"it has: kind, {known}")
        return raw if raw.get("issuers") is None else _in_order(raw)

    @field_validator("domains", "issuer", "ca_file", "rotate_every", "file", mode="before")
    @classmethod
    def _is_there(cls, value: Any, info: ValidationInfo[File]) -> Any:
        if info.field_name == "issuer" and "issuers" not in info.data:
            return None  # what is wrong there is told
        if value is None and info.field_name in _OF_KIND[info.data.get("kind", Kind.TLS_CERTIFICATE)]:
            raise PydanticCustomError("missing", "is missing")
        return value

    @field_validator("key_file")
    @classmethod
    def _is_the_targets(cls, path: str | None, info: ValidationInfo[File]) -> str | None:
        if path is not None and info.data.get("key_holder") is not KeyHolder.TARGET:
            raise Wrong("certvoy makes the keys, and sends them", "write `key_holder: target` as well")
        return path

    @field_validator("rotate_every")
    @classmethod
    def _is_long(cls, every: timedelta | None) -> timedelta | None:
        if every is not None and every < ROTATE_EVERY_MIN:
            raise Wrong("is too short", "a minute or more: each one goes to every proxy")
        return every

    @field_validator("issuers")
    @classmethod
    def _are_issuers(
        cls, names: tuple[str, ...] | None, info: ValidationInfo[File]
    ) -> tuple[str, ...] | None:
        for name in names or ():
            cls._exists(name, info)
        if names is not None and len({*names}) < len(names):
            raise Wrong("names an issuer twice", "name each once")
        return names

    @field_validator("fallback")
    @classmethod
    def _are_others(cls, names: tuple[str, ...], info: ValidationInfo[File]) -> tuple[str, ...]:
        if "issuers" not in info.data:
            return names  # what is wrong there is told
        for name in names:
            cls._exists(name, info)
        if len({info.data.get("issuer"), *names}) <= len(names):
            raise Wrong("names an issuer twice", "name each once, and not the first one")
        return names

    @field_validator("issuer")
    @classmethod
    def _exists(cls, name: str | None, info: ValidationInfo[File]) -> str | None:
        if name is None:
            return None
        _issuer_exists(name, info)
        if name not in info.context.over_dns:
            wrong = unprovable(info.data.get("domains") or (), name)
            if wrong is not None:
                raise wrong
        return name


class GrantConfig(Model):
    """An identity may see these names: full ones, prefixes (``team/*``), DNS suffixes (``*.example.com``)."""

    identity: IdentityName
    """A SPIFFE ID, or ``dns:`` and a name, as in the client's certificate."""

    names: Some[tuple[NamePattern, ...]]
    """Names of secrets, or patterns of them."""

    kinds: Some[tuple[Kind, ...]] = (*Kind,)
    """It may see secrets of these kinds alone; of every kind by default."""

    issue: StrictBool = False
    """Whether its wish for such a name, where there is no such secret, may have a certificate ordered."""

    max_names: int | None = Field(default=None, ge=1)
    """So many names may the identity want at once, at a replica; of several limits the lowest counts."""


class OnDemandConfig(Model):
    """Names that become secrets by being asked for at a first TLS handshake, over delta SDS.

    Which names: ``names``, or ``suffix``, or ``ask`` alone; ``suffix`` and ``ask`` together are both needed.
    For whom: an identity whose grant covers the name and says ``issue: true``. The first rule that a name
    is of decides. Whoever can open a connection chooses the name: a suffix alone lets anybody spend its
    limits, where DNS has a wildcard.
    """

    name: str = Field(min_length=1, max_length=50)
    """What it is called in lists and the audit; unique. Another name is another rule, without these names."""

    names: DnsNames | None = None
    """These DNS names."""

    suffix: DnsSuffix | None = None
    """Names below this one, such as ``*.shops.example.com``."""

    depth: int = Field(default=1, ge=1, le=10)
    """So many labels may stand before the suffix."""

    ask: AskUrl | None = None
    """A URL that is asked of each new name, ``?domain=NAME``: 200 within 2 s is a yes, all else a no."""

    issuer: str
    """The CA: one of ``issuers``."""

    key_type: KeyType = KeyType.ECDSA_P256
    """The kind of key pair."""

    proof: ProofPolicy = Proof()
    """What completes a rotation, as of a secret."""

    names_per_identity: int = Field(default=20, ge=1)
    """New names an hour of one identity."""

    names_per_domain: int = Field(default=50, ge=1)
    """New names within ``window`` below the suffix or, without one, of one registered domain."""

    window: Duration = timedelta(days=7)
    """The time in which those are counted."""

    max_names: int = Field(default=10_000, ge=1, le=1_000_000)
    """Names in all; each replica keeps them in memory."""

    keep: Duration = timedelta(days=30)
    """A name that no proxy has subscribed to for so long is removed. It is ``window`` or more."""

    @field_validator("names")
    @classmethod
    def _are_asked_for(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name.startswith("*."):
                raise Wrong(f"{shown(name)}: no client asks for a wildcard", "write it as a suffix")
        return names

    @model_validator(mode="after")
    def _one_way(self) -> "OnDemandConfig":
        ways = [key for key in ("names", "suffix", "ask") if getattr(self, key) is not None]
        if ways not in (["names"], ["suffix"], ["ask"], ["suffix", "ask"]):
            said = " and ".join(ways) or "none of names, suffix and ask"
            raise Wrong(f"has {said}", "write names, or suffix, or ask, or suffix and ask")
        if self.keep < self.window:
            # What is removed is counted no more, but a CA goes on counting it.
            raise Wrong(
                f"keeps names for {spelt(self.keep)}, and counts new ones within {spelt(self.window)}",
                "write a keep of window or more",
            )
        return self

    @field_validator("issuer")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo[File]) -> str:
        return _issuer_exists(name, info)


def _issuer_exists(name: str, info: ValidationInfo[File]) -> str:
    file = info.context
    if name not in file.issuers:
        declared = ", ".join(file.issuers) or "none"
        raise Wrong(f"no issuer has the name {shown(name)}", f"declared are: {declared}")
    return name


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
