"""An Envoy that asks a control plane for Secrets, each served by a listener of the same name."""

import asyncio
import hashlib
import json
import signal
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.programs.child import free_port
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from sds_server.xds.cluster import ControlPlane as Upstream
from tests.support.control_plane import HOST, SERVER_NAME, ControlPlane

IDENTITY = "spiffe://example.test/edge"


def grants(*secrets: str) -> list[dict[str, object]]:
    """What the control plane's configuration says of an Edge that asks for these."""
    return [{"identity": IDENTITY, "names": list(secrets)}]


def upstream_of(plane: ControlPlane, certificate: Path, key: Path) -> Upstream:
    """How a proxy with this client certificate reaches it."""
    return Upstream(
        host=HOST,
        port=plane.sds_port,
        server_name=SERVER_NAME,
        ca=plane.client_ca,
        certificate=certificate,
        private_key=key,
    )


class Edge:
    """Start, stop and look at it.

    ``node_id``: what it calls itself, if not by its name. ``refuses``: its listeners want OCSP staples, so
    that it refuses every certificate. ``host``: where they listen; ``ports``: those of an Edge elsewhere.
    """

    def __init__(
        self,
        directory: Path,
        plane: ControlPlane,
        secrets: Sequence[str] = ("www",),
        name: str = "edge-1",
        *,
        node_id: str | None = None,
        refuses: bool = False,
        host: str = HOST,
        ports: Mapping[str, int] | None = None,
    ) -> None:
        certificate, key = plane.clients.issue(uris=[IDENTITY]).write(directory, name)
        self._directory = directory
        self.name = name
        self._running: envoy.Envoy | None = None
        self.host = host
        self.ports = ports or {secret: free_port() for secret in secrets}
        self._bootstrap = bootstrap(
            node_id=node_id or name,
            cluster="edge",
            api=Api.DELTA,
            control_plane=upstream_of(plane, certificate, key),
            # The same ports after a restart, as in the world.
            listeners=[
                TlsListener(secret, secret, port=port, host=host) for secret, port in self.ports.items()
            ],
        )
        if refuses:
            self._bootstrap = _wanting_staples(self._bootstrap)

    async def start(self) -> None:
        self._running = await envoy.start(self._bootstrap, self._directory, name=self.name)

    async def stop(self) -> None:
        if self._running is not None:
            await self._running.stop()

    def freeze(self) -> None:
        assert self._running is not None
        self._running.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._running is not None:
            self._running.child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._running is not None
        self._running.child.kill()

    async def served(self, secret: str = "www") -> str | None:
        """Return the SHA-256 of the leaf that a new handshake shows; None: it shows none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(10):
                _, writer = await asyncio.open_connection(
                    self.host, self.ports[secret], ssl=context, server_hostname=f"{secret}.example.test"
                )
        except OSError:
            return None
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return hashlib.sha256(leaf).hexdigest()


def _wanting_staples(bootstrap: str) -> str:
    document = json.loads(bootstrap)
    for listener in document["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            context: dict[str, Any] = chain["transport_socket"]["typed_config"]
            context["ocsp_staple_policy"] = "MUST_STAPLE"
    return json.dumps(document)
