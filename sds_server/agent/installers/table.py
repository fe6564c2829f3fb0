"""Which installer belongs to which section of agent.yaml: what a new one is entered into."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sds_server.agent.installers.caddy import Caddy, CaddySettings
from sds_server.agent.installers.files import Files, FilesSettings
from sds_server.agent.installers.haproxy import HAProxy, HAProxySettings
from sds_server.agent.installers.installer import Installer
from sds_server.agent.installers.nginx import Nginx, NginxSettings
from sds_server.agent.installers.traefik import Traefik, TraefikSettings
from sds_server.config.file import Model

INSTALLERS: Final[Mapping[type[Model], Callable[[Any], Installer]]] = {
    NginxSettings: Nginx,
    HAProxySettings: HAProxy,
    TraefikSettings: Traefik,
    CaddySettings: Caddy,
    FilesSettings: Files,
}


def installer_of(settings: Model) -> Installer:
    """Return the installer that these settings are of."""
    return INSTALLERS[type(settings)](settings)
