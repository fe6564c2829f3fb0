"""The section `kms` of the configuration: the KEK that wraps, and those that wrapped before."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sds_server.config.file import Model
from sds_server.config.values import Duration, ExistingFile, File, FilePath, Wrong, parts_of
from sds_server.config.yaml_lines import shown

ENVIRONMENT: Final = "CERTVOY_ENV"
PRODUCTION: Final = "production"
"""What ``CERTVOY_ENV`` says where a KEK in a file must not be."""

LOOPBACK: Final = re.compile(r"127(?:\.[0-9]{1,3}){3}|::1|localhost")

_KEYS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "local": ("key_file",),
    "gcp": ("key", "endpoint", "credentials_file"),
    "aws": ("key", "endpoint"),
    "vault": (
        *("key", "address", "namespace", "mount", "ca_file"),
        *("token_file", "role_id", "secret_id_file", "auth_mount"),
    ),
}
"""Keys that a provider has."""

_KEK_NAMES: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "gcp": (
        re.compile(r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[\w-]{1,63}/cryptoKeys/[\w-]{1,63}"),
        "write projects/PROJECT/locations/PLACE/keyRings/RING/cryptoKeys/KEY, without a version",
    ),
    "aws": (
        # No alias: whoever may move it would choose the KEK.
        re.compile(r"arn:aws[\w-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[\w-]+"),
        "write the key's own ARN, arn:aws:kms:REGION:ACCOUNT:key/ID; an alias can be moved to another key",
    ),
    "vault": (re.compile(r"\w[\w.-]*"), "write the name of a key of the transit engine"),
}
"""How a provider's KEKs are called, and what to write instead."""


def _address(url: str) -> str:
    parts = parts_of(url)
    plain = parts and parts.scheme == "http" and LOOPBACK.fullmatch(parts.hostname or "")
    if not parts or not (parts.scheme == "https" or plain) or parts.path.strip("/") or parts.query:
        raise Wrong(
            f"must be https://host:port, got {shown(url)}",
            "write it without a path; http:// is for a proxy on this machine only",
        )
    return url.rstrip("/")


def _path_part(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*(?:/\w[\w.-]*)*/?", text):
        raise Wrong(f"must be a path such as transit, got {shown(text)}", "write it as the server calls it")
    return text.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]
MountPath = Annotated[str, AfterValidator(_path_part)]


class KekConfig(Model):
    """A KEK, and who holds it. Each provider has keys of its own: docs/how-to/kms.md shows them.

    In ``certvoy kms status``, the audit and a ``key_ref`` a KEK is called ``<provider>:<kek>``:
    ``vault:<namespace>/<mount>/<key>``, ``gcp:projects/.../cryptoKeys/<key>``, ``aws:arn:aws:kms:...``, and
    ``local:`` with the beginning of a hash of the file's key.
    """

    provider: Literal["local", "gcp", "aws", "vault"] = "local"
    """Who wraps the data keys: Google Cloud KMS, AWS KMS, Vault or OpenBao; ``local`` is a key in a file, for
    trials."""

    key_file: FilePath | None = Field(None, validate_default=True)
    """Of ``local``: where the KEK lies; every replica needs the same. By default ``<state_dir>/kek``."""

    key: str | None = Field(None, validate_default=True)
    """The KEK by the provider's own name: a resource name without a version (``gcp``), an ARN (``aws``), a
    key of the transit engine (``vault``)."""

    endpoint: Address | None = None
    """Of ``gcp`` and ``aws``: another address of the service, such as a private one."""

    credentials_file: ExistingFile | None = None
    """Of ``gcp``: a service account's key; by default what the machine is, or what
    ``GOOGLE_APPLICATION_CREDENTIALS`` names."""

    address: Address | None = Field(None, validate_default=True)
    """Of ``vault``: where it answers."""

    namespace: MountPath | None = None
    """Of ``vault``: the namespace of the transit engine."""

    mount: MountPath = "transit"
    """Of ``vault``: where the transit engine is."""

    ca_file: ExistingFile | None = None
    """Of ``vault``: PEM roots by which its HTTPS is trusted; the system's by default."""

    token_file: ExistingFile | None = None
    """Of ``vault``: a file with a token, read again whenever it is refused; or else ``role_id``."""

    role_id: str | None = None
    """Of ``vault``: log in by AppRole, with the secret id of ``secret_id_file``."""

    secret_id_file: ExistingFile | None = None
    """Of ``vault``: a file with the secret id."""

    auth_mount: MountPath = "approle"
    """Of ``vault``: where the AppRole engine is."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_provider(cls, raw: Any) -> Any:
        """Refuse keys of another provider."""
        if not isinstance(raw, dict):
            return raw
        provider = raw.get("provider", "local")
        known = _KEYS_OF.get(provider if isinstance(provider, str) else "")
        every = {key for keys in _KEYS_OF.values() for key in keys}
        if known is None:
            return raw
        for key in raw:
            if key in every and key not in known:
                raise Wrong(f"a KEK of {provider} has no {key}", f"it has: {', '.join(known)}")
        return raw

    @field_validator("key_file", "key", "address", mode="after")
    @classmethod
    def _is_there(cls, value: Any, info: ValidationInfo[File]) -> Any:
        provider = info.data.get("provider", "")
        if value is None and info.field_name in _KEYS_OF.get(provider, ()):
            raise PydanticCustomError("missing", "is missing")
        return value

    @field_validator("key")
    @classmethod
    def _is_a_kek(cls, name: str | None, info: ValidationInfo[File]) -> str | None:
        pattern, hint = _KEK_NAMES.get(info.data.get("provider", ""), (None, ""))
        if name is not None and pattern is not None and not pattern.fullmatch(name):
            raise Wrong(f"names no KEK: {shown(name)}", hint)
        return name

    @model_validator(mode="after")
    def _has_one_credential(self) -> "KekConfig":
        if self.provider == "vault" and (self.token_file is None) == (self.role_id is None):
            raise Wrong("needs one way to log in", "name token_file, or role_id with secret_id_file")
        if (self.role_id is None) != (self.secret_id_file is None):
            raise Wrong("role_id and secret_id_file go together", "name both, or token_file")
        return self


class KmsConfig(KekConfig):
    """Where the KEK is. ``key_file`` is by default ``<state_dir>/kek``, made at the first start."""

    previous: tuple[KekConfig, ...] = ()
    """KEKs that wrapped before, or that another replica wraps with already: they open, and wrap nothing."""

    backups_kept: Duration | None = None
    """For how long you keep backups of the database: ``certvoy kms status`` then says until when each version
    of a KEK is needed."""

    @model_validator(mode="after")
    def _is_no_trial(self) -> "KmsConfig":
        if self.provider == "local" and os.environ.get(ENVIRONMENT) == PRODUCTION:
            raise Wrong(
                f"a KEK in a file is for trials, and {ENVIRONMENT} says {PRODUCTION}",
                "choose gcp, aws or vault; what it wrapped until now is opened under kms.previous",
            )
        return self


def with_key_file(raw: Mapping[str, Any], state_dir: object) -> Mapping[str, Any]:
    """Return the section with the default that is relative to the file."""
    return {"key_file": f"{state_dir}/kek", **raw} if raw.get("provider", "local") == "local" else raw
