"""The values of the configuration: what they may look like, and what to write instead.

Each is an annotated type for a pydantic model. A refusal is a `Wrong`, which carries the next step.
"""

import ipaddress
import os
import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from acme_engine.errors import BadIdentifier
from acme_engine.names import MAX_NAMES, normalise, normalise_any
from sds_server.config.yaml_lines import shown
from sds_server.model import SPKI, UPLOAD, UPLOADED, Identity, Proof, SecretName

EMBEDDED = "embedded"
SECRET_NAME_BYTES_MAX = 512
"""Of Envoy's resource name: what the SDS server takes of a subscription."""

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # in milliseconds
_DURATION = re.compile(r"(?:[0-9]+(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|[smhd])")
_IDENTITY = re.compile(r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+|dns:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*"
)
EVERY_HOST = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
_CREDENTIALS = "${CREDENTIALS_DIRECTORY}"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


_Values = TypeVar("_Values", bound=Sized)


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


OFF: Final = "off"
"""Of a responder: another process answers."""

_LONGEST: Final = timedelta(days=100 * 365)
"""Beyond that, dates have no name."""


class Wrong(ValueError):
    """A value that one of our own rules refuses, with the next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class File:
    """What the rules need to know of the file besides the value before them."""

    directory: Path
    issuers: Sequence[str]
    over_dns: Sequence[str] = ()
    """Those of the issuers that can prove names by DNS."""
    listens: list[Listen] = field(default_factory=list)


def _path(text: Any, info: ValidationInfo[File]) -> Path:
    if not isinstance(text, str) or not text:
        raise Wrong("must be a path", "relative paths begin at the directory of this file")
    if "\0" in text:
        raise Wrong("holds a NUL", "write a path")
    file = info.context
    try:
        return Path(os.path.normpath(file.directory / Path(_with_credentials(text)).expanduser()))
    except RuntimeError:  # pathlib's, of a home that it does not find
        raise Wrong(f"{shown(text)}: no home of that user is known", "write the path in full") from None


def _with_credentials(text: str) -> str:
    """Put in the directory of systemd's credentials (LoadCredential=), which only it knows."""
    if not text.startswith(f"{_CREDENTIALS}/"):
        return text
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise Wrong(
            f"{shown(text)}: CREDENTIALS_DIRECTORY is not set",
            "start certvoy by systemd with LoadCredential=, or name the file itself",
        )
    return directory + text.removeprefix(_CREDENTIALS)


def _readable(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as e:
        hint = "correct the path; a relative one begins at the directory of this file"
        raise Wrong(f"cannot read {path}: {e.strerror}", hint) from e
    if empty:
        raise Wrong(f"{path} is empty", "write its content first")
    return path


def duration(text: Any) -> timedelta:
    """Read a duration: ``1h30m``."""
    parts = _DURATION_PART.findall(text) if isinstance(text, str) and _DURATION.fullmatch(text) else []
    milliseconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if milliseconds == 0:
        raise Wrong(f"must be a duration, got {shown(text)}", "write a number and a unit: 90s, 10m, 1h30m")
    if milliseconds > _LONGEST / timedelta(milliseconds=1):
        raise Wrong(f"is longer than {_LONGEST.days // 365} years: {shown(text)}", "write less")
    return timedelta(milliseconds=milliseconds)


def spelt(span: timedelta) -> str:
    """Return a duration as it is written: ``1h30m``."""
    left = round(span / timedelta(milliseconds=1))
    parts = []
    for unit, size in reversed(_UNITS.items()):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def listen_address(text: Any) -> Listen:
    """Read an address to listen on, ``host:port``.

    Raises:
        Wrong: it is none.
    """
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    if not (bare and colon and port.isdecimal() and int(port) <= 65535 and bracketed == (":" in bare)):  # noqa: PLR2004
        beyond = bare and port.isdecimal() and int(port) > 65535  # noqa: PLR2004
        raise Wrong(
            f"must be host:port, got {shown(text)}",
            "a port is 65535 at most" if beyond else 'quote it: "0.0.0.0:8080", or "[::]:8080" for IPv6',
        )
    return Listen(bare, int(port))


def _listen(text: Any, info: ValidationInfo[File]) -> Listen:
    listen = listen_address(text)
    file = info.context
    for other in file.listens:
        same_host = listen.host == other.host or EVERY_HOST & {listen.host, other.host}
        if listen.port and listen.port == other.port and same_host:
            raise Wrong(f"{listen} is taken: {other} is above", "give each its own port")
    file.listens.append(listen)
    return listen


def _listen_or_off(text: Any, info: ValidationInfo[File]) -> Listen | None:
    return None if text == OFF else _listen(text, info)


def parts_of(url: str) -> SplitResult | None:
    """Split a URL; None: it is none, as where its port is no number."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


def _https(url: str) -> str:
    parts = parts_of(url)
    if parts is None or parts.scheme != "https":
        raise Wrong(f"must be an https URL, got {shown(url)}", "use the CA's directory URL, e.g. https://...")
    return url


def _mailto(contact: str) -> str:
    if not re.fullmatch(r"mailto:[^@\s]+@[^@\s]+", contact):
        raise Wrong(f"must be a mailto: URL, got {shown(contact)}", "write mailto:you@example.com")
    return contact


def _dns_name(text: str) -> str:
    try:
        return normalise(text)
    except BadIdentifier as e:
        raise Wrong(f"{shown(text)} {e.reason}", e.hint) from e


def _name(text: str) -> str:
    try:
        return normalise_any(text)
    except BadIdentifier as e:
        raise Wrong(f"{shown(text)} {e.reason}", e.hint) from e


def too_many(names: Sequence[str]) -> Wrong | None:
    """Return what is wrong with these names for one certificate, if they are more than a CA takes."""
    if len(names) <= MAX_NAMES:
        return None
    return Wrong(f"has {len(names)} names; a CA takes {MAX_NAMES} in a certificate", "make several secrets")


def unprovable(names: Sequence[str], issuer: str) -> Wrong | None:
    """Return why an issuer without DNS cannot prove these names; None: it can."""
    wildcard = next((name for name in names if name.startswith("*.")), None)
    if wildcard is None:
        return None
    return Wrong(
        f"{wildcard}: a wildcard is proved by DNS-01 alone, and {issuer} has no `dns`",
        f"give `issuers.{issuer}` a `dns` section, or list the names one by one",
    )


def secret_name(text: str) -> SecretName:
    """Read the name of a Secret.

    Raises:
        Wrong: it cannot be one.
    """
    if not text or len(text.encode()) > SECRET_NAME_BYTES_MAX:
        raise Wrong(f"has {len(text.encode())} bytes", f"use 1 to {SECRET_NAME_BYTES_MAX}")
    if "*" in text or _CONTROL.search(text):
        raise Wrong("holds '*' or a control character", "use a plain name; '*' is for grants")
    return SecretName(text)


def _issuer_name(text: str) -> str:
    if text == UPLOAD or text.startswith(UPLOADED):
        raise Wrong(f"{shown(text)} stands for pairs that people upload", "call the CA by another name")
    return text


def _identity(text: str) -> Identity:
    if not _IDENTITY.fullmatch(text):
        raise Wrong(
            f"must be an identity, got {shown(text)}",
            "write spiffe://trust-domain/path or dns:host.example.com, as in the client's certificate",
        )
    return Identity(text)


def _proof(text: Any) -> Proof:
    try:
        return Proof.parse(text if isinstance(text, str) else shown(text))
    except ValueError as e:
        raise Wrong(
            str(e), "write all, a share such as 90%, or accepted where nobody can look what is served"
        ) from e


def _trust_domain(text: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(text):
        raise Wrong(
            f"must be a SPIFFE trust domain, got {shown(text)}",
            "write certvoy.example.com: lower case, no path",
        )
    return text


def _server_name(text: str) -> str:
    if not _HOST.fullmatch(text):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise Wrong(
                f"must be a host's name or address, got {shown(text)}", "write it without a port"
            ) from None
    return text


def _granted_name(text: str) -> str:
    # A prefix ("team/*") or a suffix ("*.example.com"): the star stands for a whole part, at one end.
    bare = text.removesuffix("/*") if text.endswith("/*") else text.removeprefix("*.")
    if not bare or "*" in bare or _CONTROL.search(bare):
        raise Wrong(
            f"cannot grant {shown(text)}",
            "write a full name, a prefix like team/*, or a DNS suffix like *.example.com",
        )
    return text


def _database_of_file(value: Any, info: ValidationInfo[File]) -> Any:
    """Read ``{file: PATH}``: a URL with a password need not stand in the configuration."""
    if not isinstance(value, dict):
        return value
    if [*value] != ["file"]:
        raise Wrong("holds other keys than file", "write the URL itself, or below it `file:` with a path")
    return content_of(value["file"], info)


def content_of(path: Any, info: ValidationInfo[File]) -> str:
    """Return what a file holds that the configuration names in place of a secret.

    Raises:
        Wrong: it cannot be read, or is empty.
    """
    return _readable(_path(path, info)).read_text(errors="replace").strip()


def _database(text: str) -> str:
    if text != EMBEDDED and not re.match(r"postgres(ql)?://", text):
        # What was written is not repeated: it may hold a password.
        raise Wrong(
            f"must be {EMBEDDED!r} or a PostgreSQL URL",
            "write embedded, postgresql://user@host/database, or {file: PATH} of a file that holds one",
        )
    return text


def _range(text: str) -> IPv4Network | IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise Wrong(
            f"must be a range of addresses, got {shown(text)}",
            "write 10.1.0.0/16 or fd12::/64, with no bit set behind the prefix",
        ) from None


def http_url(text: str) -> str:
    """Read the URL of an API that has a host and no path, and return it without a slash at its end.

    Raises:
        Wrong: it is none.
    """
    parts = parts_of(text)
    if parts is None or parts.scheme not in {"http", "https"} or parts.path.strip("/") or parts.query:
        raise Wrong(f"must be http://host:port, got {shown(text)}", "write it without a path")
    return text.rstrip("/")


def ask_url(text: str) -> str:
    """Read the URL that is asked about names on demand; ``?domain=NAME`` is put behind it.

    Raises:
        Wrong: it is none.
    """
    parts = parts_of(text)
    if parts is None or parts.scheme not in {"http", "https"} or parts.fragment or parts.username:
        raise Wrong(
            f"must be an http or https URL, got {shown(text)}", "write http://127.0.0.1:9123/may-issue"
        )
    return text


def _dns_suffix(text: str) -> str:
    try:
        name = normalise(text)
    except BadIdentifier as e:
        raise Wrong(f"{shown(text)} {e.reason}", e.hint) from e
    if not name.startswith("*."):
        raise Wrong(
            f"must begin with *., got {shown(text)}", "write *.shops.example.com; one name goes to names"
        )
    return name


def _some(values: _Values) -> _Values:
    # Not pydantic's min_length, which counts only those that are right and so tells of each error twice.
    if not values:
        raise Wrong("is empty", "it needs at least one")
    return values


def _of_one_certificate(names: tuple[str, ...]) -> tuple[str, ...]:
    wrong = too_many(names)
    if wrong is not None:
        raise wrong
    return names


_T = TypeVar("_T")

_PATH = WithJsonSchema(
    {"type": "string", "minLength": 1, "description": "a path, from this file's directory"}
)
_SPAN = WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["90s", "1h30m"]})
_URL = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"file": {"type": "string", "minLength": 1}},
                "required": ["file"],
                "additionalProperties": False,
            },
        ],
        "description": "embedded, a PostgreSQL URL, or the file that holds one",
    }
)
_ADDRESS = WithJsonSchema({"type": "string", "pattern": ":[0-9]+$", "examples": ["0.0.0.0:8443"]})
_ADDRESS_OR_OFF = WithJsonSchema(
    {"type": "string", "pattern": f"(:[0-9]+|^{OFF})$", "examples": ["0.0.0.0:8080", OFF]}
)

_PROOF = WithJsonSchema(
    {"type": "string", "pattern": "^(all|accepted|[1-9][0-9]?%)$", "examples": ["all", "accepted", "90%"]}
)

KEY_FILE_MAX: Final = 1024
_KEY_FILE_NAME: Final = f"{SPKI}.pem"


def _key_file(text: str) -> str:
    """Take a path at which only a key of ours can lie: its last part is made of the key's own hash."""
    example = f"write it as /var/lib/certvoy-keys/www/{_KEY_FILE_NAME}"
    if len(text.encode()) > KEY_FILE_MAX or _CONTROL.search(text):
        raise Wrong(f"must be a path of at most {KEY_FILE_MAX} bytes, without control characters", example)
    directory, _, name = text.rpartition("/")
    if name != _KEY_FILE_NAME or SPKI in directory:
        raise Wrong(f"must end in /{_KEY_FILE_NAME}, the name that the agent gives a key", example)
    if (
        not directory.startswith("/")
        or directory.startswith("//")
        or directory != os.path.normpath(directory)
        or directory == "/"
    ):
        raise Wrong("must be an absolute path on the proxy's disk, without . and ..", example)
    return text


KeyFile = Annotated[str, AfterValidator(_key_file)]

FilePath = Annotated[Path, BeforeValidator(_path), _PATH]
HttpUrl = Annotated[str, AfterValidator(http_url)]
ExistingFile = Annotated[Path, AfterValidator(_readable), BeforeValidator(_path), _PATH]
Duration = Annotated[timedelta, BeforeValidator(duration), PlainSerializer(spelt), _SPAN]
ListenAddress = Annotated[Listen, BeforeValidator(_listen), _ADDRESS]
ResponderAddress = Annotated[Listen | None, BeforeValidator(_listen_or_off), _ADDRESS_OR_OFF]
AskUrl = Annotated[str, AfterValidator(ask_url)]
DnsSuffix = Annotated[str, AfterValidator(_dns_suffix)]
DirectoryUrl = Annotated[str, AfterValidator(_https)]
Contact = Annotated[str, AfterValidator(_mailto)]
DatabaseUrl = Annotated[str, AfterValidator(_database), BeforeValidator(_database_of_file), _URL]
NameOfSecret = Annotated[SecretName, AfterValidator(secret_name)]
NameOfIssuer = Annotated[str, AfterValidator(_issuer_name)]
IdentityName = Annotated[Identity, AfterValidator(_identity)]
ProofPolicy = Annotated[
    Proof,
    BeforeValidator(_proof),
    PlainSerializer(str),
    _PROOF,
    Field(json_schema_extra={"default": str(Proof())}),
]
TrustDomain = Annotated[str, AfterValidator(_trust_domain)]
ServerName = Annotated[str, AfterValidator(_server_name)]
AddressRange = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(lambda value: _range(value if isinstance(value, str) else shown(value))),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.1.0.0/16", "fd12::/64"]}),
]
NamePattern = Annotated[str, AfterValidator(_granted_name)]
"""A full name, a prefix (``team/*``), or a DNS suffix (``*.example.com``)."""

Some = Annotated[_T, AfterValidator(_some)]
"""At least one of them."""

DnsNames = Annotated[
    tuple[Annotated[str, AfterValidator(_dns_name)], ...],
    AfterValidator(_some),
    AfterValidator(lambda names: tuple(dict.fromkeys(names))),
]
Names = Annotated[
    tuple[Annotated[str, AfterValidator(_name)], ...],
    AfterValidator(_some),
    AfterValidator(lambda names: tuple(dict.fromkeys(names))),
    AfterValidator(_of_one_certificate),
]
