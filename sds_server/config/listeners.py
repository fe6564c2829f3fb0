"""Sections of `certvoy.yaml` about what listens: SDS, the admin API, responders, metrics, and who enrols."""

from datetime import timedelta
from typing import TypeVar

from pydantic import (
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from sds_server.config.file import Model
from sds_server.config.values import (
    Duration,
    ExistingFile,
    FilePath,
    IdentityName,
    ListenAddress,
    ResponderAddress,
    ServerName,
    Some,
    TrustDomain,
    Wrong,
)
from sds_server.model import Scope

REFRESH_MIN = timedelta(seconds=1)


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
