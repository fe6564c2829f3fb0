"""The ``dns`` of an issuer: who hosts the zones, with that provider's own keys, and what is waited for.

The keys of each provider are those that `acme_engine.dns.table` knows; a new provider is entered there alone.
"""

import difflib
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StrictBool,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError

from acme_engine.dns import checks
from acme_engine.dns.table import PROVIDERS, Registration, Setting
from acme_engine.errors import BadIdentifier
from acme_engine.names import normalise
from sds_server.config.file import Model
from sds_server.config.values import Duration, File, Wrong, content_of
from sds_server.config.yaml_lines import shown

ChallengeType = Literal["http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"]


def _server(text: str) -> str:
    try:
        checks.server(text)
    except ValueError as e:
        raise Wrong(f"{shown(text)} {e}", "write 192.0.2.53, or ns1.example.com:5353") from None
    return text


ServerAddress = Annotated[str, AfterValidator(_server)]


class DnsConfig(Model):
    """Where the values of DNS-01 are written, and what is waited for before the CA is told to look."""

    provider: str
    """Who hosts the zones."""

    propagation: Literal["authoritative", "recursive", "wait", "off"] = "authoritative"
    """What must show the value first: every server of the zone; those and then our ``resolvers``; a fixed
    ``propagation_wait``; or nothing."""

    propagation_wait: Duration | None = None
    """Waited besides, for servers that stand behind one address; with ``wait`` by default 60s."""

    propagation_limit: Duration = timedelta(minutes=10)
    """How long the servers may take."""

    resolvers: tuple[ServerAddress, ...] = ()
    """The recursive resolvers that are asked; those of this host by default."""

    nameservers: tuple[ServerAddress, ...] = ()
    """The zones' servers, where their NS records do not say them from here: hidden primaries, split
    horizons."""

    follow_aliases: StrictBool = True
    """Whether a CNAME at ``_acme-challenge`` is followed; looking for one asks the zone's servers."""

    def settings(self) -> Mapping[str, str]:
        """Return the provider's own settings, with its credentials in clear."""
        found = {name: getattr(self, name) for name in type(self).model_fields.keys() - _COMMON}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in found.items()
            if value is not None
        }


_COMMON = frozenset(DnsConfig.model_fields)


def _text(value: Any) -> Any:
    """Take a number as it is written: an account's id, a port."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _credential(value: Any, info: ValidationInfo[File]) -> str:
    """Read ``{file: PATH}`` or ``{env: NAME}``; what stands in the configuration itself is not repeated."""
    if not isinstance(value, dict) or len(value) != 1 or not {"file", "env"} & value.keys():
        raise Wrong("is a credential, which does not stand here", "write {file: PATH} or {env: NAME}")
    if "file" in value:
        return content_of(value["file"], info)
    text = os.environ.get(str(value["env"]), "").strip()
    if not text:
        raise Wrong(f"the environment has no {value['env']}", "set it where certvoy is started")
    return text


def _checked(setting: Setting) -> AfterValidator:
    def check(value: Any) -> Any:
        try:
            if setting.check is not None:
                setting.check(value.get_secret_value() if isinstance(value, SecretStr) else value)
        except ValueError as e:
            raise Wrong(str(e), setting.what) from None
        return value

    return AfterValidator(check)


_SOURCE = WithJsonSchema(
    {
        "type": "object",
        "properties": {"file": {"type": "string", "minLength": 1}, "env": {"type": "string", "minLength": 1}},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "description": "a credential: the file that holds it, or the environment's variable",
    }
)


def _field(setting: Setting) -> tuple[Any, Any]:
    about = f"{setting.what} `{{file: PATH}}` or `{{env: NAME}}`." if setting.credential else setting.what
    plain: Any = Annotated[str, _checked(setting), BeforeValidator(_text)]
    secret: Any = Annotated[SecretStr, _checked(setting), BeforeValidator(_credential), _SOURCE]
    kind = secret if setting.credential else plain
    if setting.required:
        return kind, Field(description=about)
    return (kind if setting.default is not None else kind | None), Field(setting.default, description=about)


def _model(name: str, registration: Registration) -> type[DnsConfig]:
    fields: dict[str, Any] = {setting.name: _field(setting) for setting in registration.settings}
    assert not fields.keys() & _COMMON, name  # noqa: S101 - two keys of one name
    fields["provider"] = Literal[name], Field(description="Who hosts the zones.")
    called = f"Dns_{name.replace('-', '_')}"
    return create_model(called, __base__=DnsConfig, __doc__=registration.what, **fields)


MODELS: Mapping[str, type[DnsConfig]] = {name: _model(name, known) for name, known in PROVIDERS.items()}


class AnyKey(Model):
    """Every key that some provider has; for hints at unknown ones."""


def _of_provider(value: Any, _handler: object, info: ValidationInfo[File]) -> DnsConfig | None:
    """Read it as what its provider takes."""
    if value is None or isinstance(value, DnsConfig):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("model_type", "is no mapping")
    name = value.get("provider")
    if name is None:
        raise Wrong("has no provider", f"there are: {', '.join(MODELS)}")
    if name not in MODELS:
        close = difflib.get_close_matches(str(name), [*MODELS], n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(MODELS)}"
        raise Wrong(f"provider: nobody is called {shown(name)}", hint)
    return MODELS[name].model_validate(value, context=info.context)


if TYPE_CHECKING:
    _Any = DnsConfig
else:
    _Any = Union[tuple(MODELS.values())]  # noqa: UP007 - as many as there are
    AnyKey = create_model(
        "AnyKey",
        __base__=DnsConfig,
        __doc__=AnyKey.__doc__,
        **{field: (Any, None) for model in MODELS.values() for field in model.model_fields.keys() - _COMMON},
    )

Dns = Annotated[_Any | None, WrapValidator(_of_provider)]
"""The section, as its provider's model."""


def _pattern(text: str) -> str:
    try:
        return normalise(text)
    except BadIdentifier as e:
        raise Wrong(f"{shown(text)} {e.reason}", "write a DNS name, or *.example.com for all below it") from e


NameOrSuffix = Annotated[str, AfterValidator(_pattern)]
"""A DNS name, or ``*.example.com`` for all below it."""


def preferred(name: str, choices: Mapping[str, str], *, otherwise: str | None) -> str | None:
    """Return the challenge type that a configuration prefers for a name.

    The name itself decides, else the longest ``*.suffix`` that it is below of, at any depth. Pure.
    """
    if name in choices:
        return choices[name]
    bare = name.removeprefix("*.")
    suffixes = [p for p in choices if p.startswith("*.") and bare.endswith(p[1:])]
    return choices[max(suffixes, key=len)] if suffixes else otherwise
