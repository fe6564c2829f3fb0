"""Configuration: one YAML file, read into models that cannot be wrong.

`load` reports every error at once, each with its place in the file and what to do. A relative path begins at
the file's directory. Files that must exist are looked for here, so that a start-up does not end half-way.
"""

import difflib
import os
import re
import socket
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from acme_engine.errors import BadIdentifier
from acme_engine.names import normalise
from sds_server.errors import ConfigError
from sds_server.model import Identity, KeyType, SecretName
from sds_server.yaml_lines import Place, Reader, dotted, problem, shown

EMBEDDED = "embedded"
DEFAULT_STATE_DIR = "./certvoy-state"
SECRET_NAME_BYTES_MAX = 512
"""Of Envoy's resource name: what the SDS server takes of a subscription."""

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # in milliseconds
_DURATION = re.compile(r"(?:[0-9]+(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|[smhd])")
_IDENTITY = re.compile(r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+|dns:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_EVERY_HOST = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


_Values = TypeVar("_Values", bound=Sized)


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Wrong(ValueError):
    """A value that one of our own rules refuses, with the next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class _File:
    """What the rules need to know of the file besides the value before them."""

    directory: Path
    issuers: Sequence[str]
    listens: list[Listen] = field(default_factory=list)


def _path(text: Any, info: ValidationInfo[_File]) -> Path:
    if not isinstance(text, str) or not text:
        raise _Wrong("must be a path", "relative paths begin at the directory of this file")
    file = info.context
    return Path(os.path.normpath(file.directory / Path(text).expanduser()))


def _readable(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as e:
        hint = "correct the path; a relative one begins at the directory of this file"
        raise _Wrong(f"cannot read {path}: {e.strerror}", hint) from e
    if empty:
        raise _Wrong(f"{path} is empty", "write its content first")
    return path


def _duration(text: Any) -> timedelta:
    parts = _DURATION_PART.findall(text) if isinstance(text, str) and _DURATION.fullmatch(text) else []
    milliseconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if milliseconds == 0:
        raise _Wrong(f"must be a duration, got {shown(text)}", "write a number and a unit: 90s, 10m, 1h30m")
    return timedelta(milliseconds=milliseconds)


def _listen(text: Any, info: ValidationInfo[_File]) -> Listen:
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    if not (bare and colon and port.isdecimal() and int(port) <= 65535 and bracketed == (":" in bare)):  # noqa: PLR2004
        raise _Wrong(
            f"must be host:port, got {shown(text)}",
            'quote it: "0.0.0.0:8080", or "[::]:8080" for IPv6',
        )
    listen = Listen(bare, int(port))
    file = info.context
    for other in file.listens:
        same_host = listen.host == other.host or _EVERY_HOST & {listen.host, other.host}
        if listen.port and listen.port == other.port and same_host:
            raise _Wrong(f"{listen} is taken: {other} is above", "give each its own port")
    file.listens.append(listen)
    return listen


def _https(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise _Wrong(
            f"must be an https URL, got {shown(url)}", "use the CA's directory URL, e.g. https://..."
        )
    return url


def _mailto(contact: str) -> str:
    if not re.fullmatch(r"mailto:[^@\s]+@[^@\s]+", contact):
        raise _Wrong(f"must be a mailto: URL, got {shown(contact)}", "write mailto:you@example.com")
    return contact


def _dns_name(text: str) -> str:
    try:
        name = normalise(text)
    except BadIdentifier as e:
        raise _Wrong(f"{shown(text)} {e.reason}", e.hint) from e
    if name.startswith("*."):
        raise _Wrong(
            f"{shown(text)}: a wildcard needs DNS-01 (RFC 8555 section 7.1.3), "
            "which no configured solver offers",
            "list the names one by one",
        )
    return name


def _secret_name(text: str) -> SecretName:
    if not text or len(text.encode()) > SECRET_NAME_BYTES_MAX:
        raise _Wrong(f"has {len(text.encode())} bytes", f"use 1 to {SECRET_NAME_BYTES_MAX}")
    if "*" in text or _CONTROL.search(text):
        raise _Wrong("holds '*' or a control character", "use a plain name; '*' is for grants")
    return SecretName(text)


def _identity(text: str) -> Identity:
    if not _IDENTITY.fullmatch(text):
        raise _Wrong(
            f"must be an identity, got {shown(text)}",
            "write spiffe://trust-domain/path or dns:host.example.com, as in the client's certificate",
        )
    return Identity(text)


def _granted_name(text: str) -> str:
    # A prefix ("team/*") or a suffix ("*.example.com"): the star stands for a whole part, at one end.
    bare = text.removesuffix("/*") if text.endswith("/*") else text.removeprefix("*.")
    if not bare or "*" in bare or _CONTROL.search(bare):
        raise _Wrong(
            f"cannot grant {shown(text)}",
            "write a full name, a prefix like team/*, or a DNS suffix like *.example.com",
        )
    return text


def _database(text: str) -> str:
    if text != EMBEDDED and not re.match(r"postgres(ql)?://", text):
        # What was written is not repeated: it may hold a password.
        raise _Wrong(
            f"must be {EMBEDDED!r} or a PostgreSQL URL", "write embedded, or postgresql://user@host/database"
        )
    return text


def _some(values: _Values) -> _Values:
    # Not pydantic's min_length, which counts only those that are right and so tells of each error twice.
    if not values:
        raise _Wrong("is empty", "it needs at least one")
    return values


FilePath = Annotated[Path, BeforeValidator(_path)]
ExistingFile = Annotated[Path, AfterValidator(_readable), BeforeValidator(_path)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
ListenAddress = Annotated[Listen, BeforeValidator(_listen)]
DnsNames = Annotated[
    tuple[Annotated[str, AfterValidator(_dns_name)], ...],
    AfterValidator(_some),
    AfterValidator(lambda names: tuple(dict.fromkeys(names))),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KmsConfig(_Model):
    """Where the KEK is. ``key_file`` is by default ``<state_dir>/kek``, made at the first start."""

    provider: Literal["local"] = "local"
    key_file: FilePath


class EabConfig(_Model):
    """External account binding (RFC 8555 section 7.3.4); the file holds the key in base64url."""

    kid: str = Field(min_length=1)
    hmac_key_file: ExistingFile


class IssuerConfig(_Model):
    """An ACME directory and our account there.

    ``ca_file`` holds the roots by which its HTTPS is trusted, if not the system's; ``roots_file`` those to
    which the chains that it issues must build, if that is to be checked.
    """

    directory: Annotated[str, AfterValidator(_https)]
    ca_file: ExistingFile | None = None
    roots_file: ExistingFile | None = None
    contact: tuple[Annotated[str, AfterValidator(_mailto)], ...] = ()
    terms_agreed: StrictBool = False
    eab: EabConfig | None = None


class Http01Config(_Model):
    """Where HTTP-01 challenges are answered; the CA asks on port 80, wherever that is forwarded from."""

    listen: ListenAddress


class SdsConfig(_Model):
    """Where Envoys connect, over mutual TLS only: certificates that ``client_ca`` issued."""

    listen: ListenAddress
    certificate: ExistingFile
    key: ExistingFile
    client_ca: ExistingFile


class SecretConfig(_Model):
    """A Secret to keep: ``domains`` in A-labels, lower case, the primary first."""

    domains: DnsNames
    issuer: str
    key_type: KeyType = KeyType.ECDSA_P256

    @field_validator("issuer")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo[_File]) -> str:
        file = info.context
        if name not in file.issuers:
            declared = ", ".join(file.issuers) or "none"
            raise _Wrong(f"no issuer has the name {shown(name)}", f"declared are: {declared}")
        return name


class GrantConfig(_Model):
    """An identity may see these names: full ones, prefixes (``team/*``), DNS suffixes (``*.example.com``)."""

    identity: Annotated[Identity, AfterValidator(_identity)]
    names: Annotated[tuple[Annotated[str, AfterValidator(_granted_name)], ...], AfterValidator(_some)]


class RotationConfig(_Model):
    """The times of a Rotation."""

    seen_for: Duration = timedelta(minutes=10)
    """How long a Target that was seen stays in the live set."""

    settle: Duration = timedelta(seconds=30)
    """How long after start-up before an empty live set is believed."""

    lease: Duration = timedelta(seconds=60)
    """How long a worker that died keeps others from its Rotation."""

    poll: Duration = timedelta(seconds=1)
    """How often a worker looks for work that no notification told it of."""


class LogConfig(_Model):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Model):
    """The whole file."""

    database: Annotated[str, AfterValidator(_database)] = Field(repr=False)
    state_dir: FilePath
    replica: str = Field(default_factory=socket.gethostname, min_length=1)
    kms: KmsConfig
    issuers: Annotated[Mapping[str, IssuerConfig], AfterValidator(_some)]
    http01: Http01Config
    sds: SdsConfig
    secrets: Mapping[Annotated[SecretName, AfterValidator(_secret_name)], SecretConfig] = {}
    grants: tuple[GrantConfig, ...] = ()
    rotation: RotationConfig = RotationConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="before")
    @classmethod
    def _with_places(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Put in the defaults that are relative to the file, or to each other."""
        state_dir = raw.get("state_dir", DEFAULT_STATE_DIR)
        kms = raw.get("kms", {})
        if isinstance(kms, dict):
            kms = {"key_file": f"{state_dir}/kek", **kms}
        return {**raw, "state_dir": state_dir, "kms": kms}


def load(path: Path) -> Config:
    """Read the file.

    Raises:
        ConfigError: the message holds all errors, one a line: ``path: message (line N); next step``.
    """
    reader = Reader()
    try:
        with path.open(encoding="utf-8") as file:
            raw = reader.read(file.read())
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}", hint="name a file that exists") from e
    except (yaml.YAMLError, ValueError) as e:  # ValueError: a date in month 13, bytes that are not UTF-8
        raise ConfigError(f"{path} is not YAML: {problem(e)}", hint="mend its syntax") from e
    errors = reader.errors
    if isinstance(raw, dict):
        issuers = raw.get("issuers")
        context = _File(path.absolute().parent, [*issuers] if isinstance(issuers, dict) else [])
        try:
            config = Config.model_validate(raw, context=context)
        except ValidationError as e:
            errors += [_error(detail, reader.lines) for detail in e.errors()]
    else:
        errors.append((1, f"{path}: must hold keys and values (line 1); begin with `database: embedded`"))
    if errors:
        raise ConfigError("\n".join(text for _, text in sorted(errors)), hint=f"mend {path} and try again")
    return config


def _error(detail: ErrorDetails, lines: Mapping[Place, int]) -> tuple[int, str]:
    place = tuple(part for part in detail["loc"] if part != "[key]")
    known = place
    while known not in lines:
        known = known[:-1]
    message, hint = _explained(detail, place)
    line = lines[known]
    return line, f"{dotted(place)}: {message} (line {line}); {hint}"


def _explained(detail: ErrorDetails, place: Place) -> tuple[str, str]:
    """Return what is wrong and what to do."""
    context = detail.get("ctx", {})
    if isinstance(wrong := context.get("error"), _Wrong):
        return str(wrong), wrong.hint
    if detail["type"] == "extra_forbidden":
        return "unknown key", _known_keys(place)
    message, hint = _EXPLAINED.get(detail["type"], (detail["msg"], "correct the value"))
    return message.format(got=shown(detail["input"]), **context), hint


_EXPLAINED = {  # pydantic's words for a reader of its documentation, in those of a reader of the file
    "missing": ("is missing", "add it"),
    "string_too_short": ("is empty", "write something"),
    "string_type": ("must be text, got {got}", "put it in quotes"),
    "bool_type": ("must be true or false, got {got}", "choose one of them"),
    "literal_error": ("must be {expected}, got {got}", "choose one of them"),
    "enum": ("must be {expected}, got {got}", "choose one of them"),
    "model_type": ("must hold keys and values, got {got}", "indent them below it"),
    "mapping_type": ("must hold keys and values, got {got}", "indent them below it"),
    "tuple_type": ("must be a list, got {got}", "write [a, b], or one `- a` a line"),
}


def _known_keys(place: Place) -> str:
    top, *rest = map(str, place[:-1]) if len(place) > 1 else ("",)
    keys = sorted(_MODELS[top, *rest[1:]].model_fields)
    close = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(keys)}"


_MODELS: Mapping[tuple[str, ...], type[_Model]] = {
    ("",): Config,
    ("kms",): KmsConfig,
    ("issuers",): IssuerConfig,  # the name of the issuer is left out
    ("issuers", "eab"): EabConfig,
    ("http01",): Http01Config,
    ("sds",): SdsConfig,
    ("secrets",): SecretConfig,
    ("grants",): GrantConfig,
    ("rotation",): RotationConfig,
    ("log",): LogConfig,
}
