"""agent.yaml: which pairs an agent brings to which programs. Read as certvoy.yaml is, all errors at once."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from sds_server.agent.installers.caddy import CaddySettings
from sds_server.agent.installers.files import FilesSettings
from sds_server.agent.installers.haproxy import HAProxySettings
from sds_server.agent.installers.nginx import NginxSettings
from sds_server.agent.installers.traefik import TraefikSettings
from sds_server.config.file import Model, Sections, read, with_durations
from sds_server.config.values import (
    Duration,
    ExistingFile,
    File,
    FilePath,
    ListenAddress,
    NameOfSecret,
    Wrong,
    parts_of,
)
from sds_server.config.yaml_lines import shown
from sds_server.errors import CallerError
from sds_server.targets.probe import split

KINDS = ("nginx", "haproxy", "traefik", "caddy", "files")
"""The keys of a bundle of which exactly one is there."""


def _server(url: str) -> str:
    parts = parts_of(url)
    if parts is None or parts.scheme != "https" or parts.path.strip("/"):
        raise Wrong(
            f"must be https://host:port, got {shown(url)}",
            "write the address of the control plane's admin.listen",
        )
    return url.rstrip("/")


def _address(text: str) -> str:
    try:
        split(text)
    except CallerError as e:
        raise Wrong(e.message, e.next_step) from e
    return text


def _host_name(text: str) -> str:
    name = text.lower()
    if not name.isascii() or not all(part for part in name.split(".")):
        raise Wrong(f"{shown(text)} is no DNS name", "write it in A-labels (xn--...)")
    return name


Server = Annotated[str, AfterValidator(_server)]
Address = Annotated[str, AfterValidator(_address)]
HostName = Annotated[str, AfterValidator(_host_name)]


class KeySource(StrEnum):
    """Where a pair's private key comes from."""

    DELIVERED = "delivered"
    LOCAL = "local"


class ProbeConfig(Model):
    """Where the program listens: a handshake there is what proves."""

    address: Address
    """``host:port``, as seen from this host."""

    proxy_protocol: bool = False
    """Whether that listener wants the PROXY protocol before TLS."""

    http3: bool = False
    """Whether HTTP/3 is served there as well, on the same port over UDP, and proved over QUIC."""

    names: tuple[HostName, ...] = ()
    """The names to ask for; by default all of the leaf's. For a program that serves fewer of them."""

    within: Duration = timedelta(seconds=10)
    """How long after it was told the program may go on with the old pair, before it is taken back."""


class BundleConfig(Model):
    """A secret's pair, and the program that serves it: one of the sections at its end."""

    secret: NameOfSecret
    """The secret; the agent's identity needs a grant for it."""

    target: str | None = Field(default=None, min_length=1, max_length=256)
    """What certvoy calls what serves it; the agent's identity by default. Hosts that share an identity need
    one each: under one name the word of any of them is taken for all."""

    directory: FilePath
    """Where the pair lies, the agent's alone: ``current/fullchain.pem``, ``key.pem``, ``combined.pem``."""

    key: KeySource = KeySource.DELIVERED
    """Where private keys come from. ``local``: the agent makes them, in ``keys/`` of the directory, and they
    never leave this host; for a secret with ``key_holder: target``. ``delivered``: with the pair."""

    group: str | None = Field(default=None, min_length=1)
    """A group that may read the files too, for a program that reads them as another user."""

    names: tuple[HostName, ...] = ()
    """DNS names that a pair must cover; one that does not is refused before anything is written."""

    probe: ProbeConfig | None = None
    """Where to look what is served; without it nothing is proved from here."""

    nginx: NginxSettings | None = None
    """nginx."""

    haproxy: HAProxySettings | None = None
    """HAProxy."""

    traefik: TraefikSettings | None = None
    """Traefik, by its file provider."""

    caddy: CaddySettings | None = None
    """Caddy, with certificate files of its configuration."""

    files: FilesSettings | None = None
    """Any other program, by commands."""

    @model_validator(mode="after")
    def _one_program(self) -> "BundleConfig":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "does not say which program serves it"
            raise Wrong(what, f"write one of {', '.join(KINDS)}; `files: {{}}` for files alone")
        return self

    @property
    def program(self) -> Model:
        """The settings of the one program."""
        settings: Model = next(filter(None, (getattr(self, kind) for kind in KINDS)))
        return settings


class KeysConfig(Model):
    """A secret of an Envoy beside us, whose keys are made here: it gets the chains over SDS."""

    secret: NameOfSecret
    """The secret, with ``key_holder: target`` and a ``key_file``; the agent needs a grant for it."""

    target: str | None = Field(default=None, min_length=1, max_length=256)
    """What certvoy calls who has the keys: the Envoy's node id; the agent's identity by default."""

    directory: FilePath
    """Where the keys lie, each as ``<SHA-256 of its public half>.pem``: the directory of the ``key_file``."""

    group: str | None = Field(default=None, min_length=1)
    """A group that may read them too, for an Envoy that runs as another user."""

    every: Duration = timedelta(minutes=1)
    """How often it is asked whether the next key is wanted."""


class AgentConfig(Model):
    """The whole file."""

    server: Server
    """The control plane: ``https://host:port`` of its ``admin.listen``."""

    credentials: FilePath
    """The directory of the agent's own client certificate, which it gets and renews by itself."""

    token_file: FilePath | None = None
    """A file with the token of `certvoy proxies enroll`; needed once, and it may be gone later."""

    ca: ExistingFile | None = None
    """PEM roots of the control plane's certificate, where that is not of its own CA."""

    listen: ListenAddress | None = None
    """Where the control plane may push bundles (``certvoy targets add --push``); without it they are fetched
    alone."""

    bundles: tuple[BundleConfig, ...] = ()
    """Pairs for programs beside us."""

    keys: tuple[KeysConfig, ...] = ()
    """Keys for Envoys beside us."""

    log: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is worth a line."""

    @model_validator(mode="after")
    def _each_its_own(self) -> "AgentConfig":
        if not self.bundles and not self.keys:
            raise Wrong("bundles: is empty", "write which pairs go where, or `keys:` for an Envoy")
        taken = {self.credentials: "credentials"}
        said = set()
        for number, bundle in enumerate(self.bundles):
            here = f"bundles[{number}]"
            if bundle.directory in taken:
                raise Wrong(
                    f"{here}.directory: {bundle.directory} is that of {taken[bundle.directory]}",
                    "give each a directory of its own",
                )
            if (bundle.secret, bundle.target) in said:
                raise Wrong(
                    f"{here}: secret {bundle.secret} is there twice for one target",
                    "name a target for each: `target: web-1-mail`",
                )
            beside = [other.key for other in self.bundles[:number] if other.secret == bundle.secret]
            if beside and KeySource.LOCAL in {bundle.key, *beside}:
                raise Wrong(
                    f"{here}: secret {bundle.secret} is there twice, and its keys are one target's",
                    "declare a secret for each, of the same names",
                )
            taken[bundle.directory] = here
            said.add((bundle.secret, bundle.target))
        local = {bundle.secret for bundle in self.bundles if bundle.key is KeySource.LOCAL}
        for number, made in enumerate(self.keys):
            here = f"keys[{number}]"
            if made.directory in taken:
                raise Wrong(
                    f"{here}.directory: {made.directory} is that of {taken[made.directory]}",
                    "give each a directory of its own",
                )
            if made.secret in local:
                raise Wrong(
                    f"{here}: the keys of secret {made.secret} are made twice",
                    "declare a secret for each, of the same names",
                )
            taken[made.directory] = here
            local.add(made.secret)
        return self


def load(path: Path) -> AgentConfig:
    """Read the file.

    Raises:
        ConfigError: the message holds all errors, one a line.
    """

    def context(_raw: Mapping[str, Any]) -> File:
        return File(path.absolute().parent, [])

    return read(
        path,
        AgentConfig,
        context=context,
        sections=_SECTIONS,
        begin="server: https://certvoy.example.com:8445",
    )


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file."""
    described = AgentConfig.model_json_schema()
    with_durations(
        described,
        KeysConfig,
        ProbeConfig,
        NginxSettings,
        HAProxySettings,
        TraefikSettings,
        CaddySettings,
        FilesSettings,
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "agent.yaml"} | described


_SECTIONS: Sections = {
    ("",): AgentConfig,
    ("bundles",): BundleConfig,
    ("keys",): KeysConfig,
    ("bundles", "probe"): ProbeConfig,
    ("bundles", "nginx"): NginxSettings,
    ("bundles", "haproxy"): HAProxySettings,
    ("bundles", "traefik"): TraefikSettings,
    ("bundles", "caddy"): CaddySettings,
    ("bundles", "files"): FilesSettings,
}
