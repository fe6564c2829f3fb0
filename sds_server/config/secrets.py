"""Sections of `certvoy.yaml` about secrets: declared ones, those made on demand, and who may see which."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import (
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sds_server.config.file import Model
from sds_server.config.values import (
    AskUrl,
    DnsNames,
    DnsSuffix,
    Duration,
    ExistingFile,
    File,
    IdentityName,
    KeyFile,
    NamePattern,
    Names,
    ProofPolicy,
    Some,
    Wrong,
    spelt,
    unprovable,
)
from sds_server.config.yaml_lines import shown
from sds_server.model import KeyHolder, KeyType, Kind, Proof

_OF_KIND: Mapping[Kind, tuple[str, ...]] = {
    Kind.TLS_CERTIFICATE: ("domains", "issuers", "issuer", "fallback"),
    Kind.VALIDATION_CONTEXT: ("ca_file", "crl_file", "leaf_crl_only"),
    Kind.SESSION_TICKET_KEYS: ("rotate_every", "keep"),
    Kind.GENERIC_SECRET: ("file",),
}
"""Keys that one kind of Secret has and no other."""

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
