"""Many Secrets in an inventory, a control plane that serves them, and an Envoy with a listener for each.

They are written straight into the tables, as issued, proved and over: no CA is asked. Everything comes on one
stream of ADS, and the listeners from a file that can be changed while Envoy runs.
"""

import asyncio
import json
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

import tests.xds.quiet  # noqa: F401
from benchmarks import filling
from sds_server.clock import SystemClock
from sds_server.inventory import deployment
from sds_server.inventory.database import Database
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.programs import envoy
from sds_server.programs.child import free_port
from sds_server.xds.bootstrap import FETCH_TIMEOUT, Api, TlsListener, bootstrap
from tests.support import pki
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import IDENTITY, upstream_of

NODE = "edge-1"


class Fleet:
    """``plane`` serves ``names``; ``envoy`` runs once it is started."""

    def __init__(self, directory: Path, connect: dict[str, Any], names: list[str]) -> None:
        self.directory = directory
        self.names = names
        self.ports = {names[0]: free_port()}
        """Of the listener that users come to; those of the others are Envoy's choice."""

        self.plane = ControlPlane(directory, database=dsn(connect))
        self.plane.settings |= {
            "kms": {"key_file": str(directory / "kek")},
            "grants": [{"identity": IDENTITY, "names": ["fleet/*"]}],
            # Nobody answers there: what is here must do.
            "issuers": {
                filling.ISSUER: {
                    "directory": f"https://localhost:{free_port()}/directory",
                    "ca_file": str(self.plane.client_ca),
                }
            },
        }
        self.envoy: envoy.Envoy | None = None
        self._listeners = directory / "listeners.json"

    @classmethod
    async def filled(
        cls,
        directory: Path,
        connect: dict[str, Any],
        database: Database,
        sql: Any,
        *,
        size: int,
        new_key: Callable[[], ec.EllipticCurvePrivateKey] = pki.new_key,
    ) -> "Fleet":
        """Fill an empty, migrated inventory with so many Secrets."""
        identity, _ = await deployment.identify(database)
        kms = LocalKms(directory / "kek", create=True)
        sealer = Sealer(kms, deployment=identity, clock=SystemClock())
        ca = filling.new_ca("fleet")
        wanted = [await filling.pair(sealer, ca, number, key=new_key()) for number in range(size)]
        await filling.fill(sql, size=size, wanted=wanted, ca=ca)
        return cls(directory, connect, [filling.name(number) for number in range(size)])

    @property
    def address(self) -> str:
        """Where users come to."""
        return f"{HOST}:{self.ports[self.names[0]]}"

    async def start_envoy(self, api: Api = Api.ADS, fetch_timeout: timedelta = FETCH_TIMEOUT) -> None:
        """Start it with a listener for each Secret, and wait until all are served."""
        config = self._configuration(api)
        source = {"path_config_source": {"path": str(self._listeners)}, "resource_api_version": "V3"}
        del config["static_resources"]["listeners"]
        config["dynamic_resources"]["lds_config"] = source
        self.listen(api, fetch_timeout)
        self.envoy = await envoy.start(json.dumps(config), self.directory)
        await until(self.envoy.live)

    def listen(self, api: Api, fetch_timeout: timedelta) -> None:
        """Write the file that Envoy takes its listeners from: moved there, it is read at once.

        Another ``fetch_timeout`` is another `sds_config` by a byte, and so another provider in Envoy.
        """
        (one,) = self._configuration(api, fetch_timeout)["static_resources"]["listeners"]
        text = json.dumps({"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **one})
        listeners = [self._listener(text, name) for name in self.names]
        partial = self._listeners.with_suffix(".partial")
        partial.write_text(json.dumps({"resources": listeners}))
        partial.rename(self._listeners)

    def _configuration(self, api: Api, fetch_timeout: timedelta = FETCH_TIMEOUT) -> Any:
        """Return the bootstrap with the first listener: to write all takes envoy-data-plane too long."""
        plane, first = self.plane, self.names[0]
        certificate, key = self.directory / f"{NODE}.pem", self.directory / f"{NODE}.key"
        if not key.exists():
            plane.clients.issue(uris=[IDENTITY]).write(self.directory, NODE)
        upstream = upstream_of(plane, certificate, key)
        text = bootstrap(
            node_id=NODE,
            cluster="edge",
            api=api,
            control_plane=upstream,
            listeners=[TlsListener(first, first)],
            fetch_timeout=fetch_timeout,
        )
        return json.loads(text)

    def _listener(self, text: str, name: str) -> Any:
        listener = json.loads(text.replace(f'"{self.names[0]}"', f'"{name}"'))
        if name in self.ports:
            listener["address"]["socket_address"]["port_value"] = self.ports[name]
        return listener

    async def stop(self) -> None:
        stopping = [self.envoy.stop()] if self.envoy is not None else []
        if self.plane.child is not None:
            stopping.append(self.plane.child.stop(timeout_s=30))
        await asyncio.gather(*stopping)

    async def taken(self) -> dict[str, int]:
        """How often Envoy has taken each Secret, by its own count: an unchanged one counts as well."""
        assert self.envoy is not None
        stats = await self.envoy.stats("sds.")
        return {name: stats.get(f"sds.{name}.update_success", 0) for name in self.names}

    async def served(self) -> bool:
        """Whether a new handshake with the first listener succeeds."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(10):
                _, writer = await asyncio.open_connection(
                    HOST, self.ports[self.names[0]], ssl=context, server_hostname=filling.domain(0)
                )
        except OSError:
            return False
        writer.transport.abort()
        return True
