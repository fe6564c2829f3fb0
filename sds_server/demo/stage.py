"""The demo's parts, all real and all ours: a CA, PostgreSQL, the control plane, an agent, an Envoy, a client.

Everything listens on free ports of loopback, lives in one directory, and dies with us.
"""

import asyncio
import hashlib
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import yaml

from sds_server import foundation
from sds_server.agent.files import CredentialFiles
from sds_server.config.certvoy_yaml import load
from sds_server.errors import Unavailable
from sds_server.inventory.database import Database, open_database
from sds_server.programs import envoy
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import Child, free_port
from sds_server.xds.bootstrap import TlsListener, bootstrap
from sds_server.xds.cluster import EnrolledControlPlane

HOST: Final = "127.0.0.1"
SECRET: Final = "www"  # noqa: S105 - its name
DOMAIN: Final = "www.demo.test"
NODE: Final = "edge-1"
WAIT_S: Final = 60.0
POLL_S: Final = 0.02


class NotVerified(Exception):
    """A step of the demo was not seen to be true."""


@dataclass
class Handshakes:
    """What a client saw that handshakes without pause."""

    done: int = 0
    failures: list[str] = field(default_factory=list)


class Stage:
    """Starts and stops the parts; `served` is what a stranger sees, and the only judge."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sds_port = free_port()
        self.admin_port = free_port()
        self.http01_port = free_port()
        self.envoy_port = free_port()
        self.config = directory / "certvoy.yaml"
        self._caddy: Caddy | None = None
        self._control_plane: Child | None = None
        self._agent: Child | None = None
        self._envoy: envoy.Envoy | None = None

    async def start_ca(self) -> None:
        """Start the CA; its validator comes to our responder."""
        self._caddy = await Caddy.start(
            self.directory / "caddy", responder=f"{HOST}:{self.http01_port}", lifetime=timedelta(days=6)
        )

    @property
    def root(self) -> Path:
        """The CA's root certificate."""
        if self._caddy is None:
            raise Unavailable("demo: the CA has not been started")
        return self._caddy.ca_file

    async def start_control_plane(self) -> None:
        """Start `certvoy serve`, a process of its own."""
        if self._caddy is None:
            raise Unavailable("demo: the CA has not been started")
        self.config.write_text(yaml.safe_dump(self._settings(self._caddy), sort_keys=False))
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        self._control_plane = self._start("certvoy", "serve", "--config", self.config, "--ports-file", ready)

        async def answers() -> bool:
            return ready.exists()

        await self._control_plane.ready(answers, timeout_s=WAIT_S)

    def kill_control_plane(self) -> None:
        """End it as by `kill -9`; its PostgreSQL goes with it."""
        if self._control_plane is not None:
            self._control_plane.kill()

    async def start_envoy(self) -> None:
        """Let an Envoy enrol, and start it; it asks for the secret over delta ADS and mTLS."""
        token, credentials = self.directory / "token", CredentialFiles(self.directory / NODE)
        token.touch(mode=0o600)
        token.write_text(await self.certvoy("proxies", "enroll", NODE, "--secret", SECRET))
        server = f"https://{HOST}:{self.admin_port}"
        self._agent = self._start(
            *("agent", "agent", "--credentials", credentials.directory),
            *("--server", server, "--token-file", token),
        )

        async def enrolled() -> bool:
            return credentials.held() is not None

        await self._agent.ready(enrolled, timeout_s=WAIT_S)
        configuration = bootstrap(
            node_id=NODE,
            cluster=NODE,
            control_plane=EnrolledControlPlane(
                host=HOST, port=self.sds_port, server_name=HOST, credentials=credentials.directory
            ),
            listeners=[TlsListener(name="https", secret=SECRET, port=self.envoy_port)],
        )
        self._envoy = await envoy.start(configuration, self.directory)

    async def stop(self) -> None:
        """Stop what runs."""
        for part in (self._envoy, self._agent, self._control_plane, self._caddy):
            if part is not None:
                await part.stop()

    async def certvoy(self, *arguments: str) -> str:
        """Run a certvoy command as an operator would, and return what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sds_server",
            *arguments,
            "--config",
            str(self.config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.directory,
        )
        output, complaint = await process.communicate()
        if process.returncode != 0:
            raise NotVerified(f"certvoy {' '.join(arguments)}: {complaint.decode().strip()}")
        return output.decode()

    async def inventory(self) -> Database:
        """Open the running control plane's database; the caller closes it."""
        return await open_database(foundation.connect_arguments(load(self.config)), size=2)

    async def served(self) -> str:
        """Handshake as a client that trusts the CA alone, and return the leaf's SHA-256.

        Raises:
            OSError: no connection, or a certificate that does not verify for the name.
        """
        context = ssl.create_default_context(cafile=str(self.root))
        _, writer = await asyncio.open_connection(
            HOST, self.envoy_port, ssl=context, server_hostname=DOMAIN, ssl_handshake_timeout=WAIT_S
        )
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return hashlib.sha256(leaf).hexdigest()

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it holds; an OSError means "not yet".

        Raises:
            NotVerified: it does not within a minute.
        """
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    with suppress(OSError, Unavailable):
                        if await holds():
                            return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise NotVerified(f"{what}: not seen within {WAIT_S:g} s; see {self.directory}") from None

    async def handshake_without_pause(self, seen: Handshakes, stop: asyncio.Event) -> None:
        """Be the client who notices every gap."""
        while not stop.is_set():
            try:
                await self.served()
            except OSError as e:
                seen.failures.append(str(e))
            seen.done += 1

    def _start(self, name: str, *arguments: str | Path) -> Child:
        """Start a certvoy command that goes on."""
        argv = [sys.executable, "-m", "sds_server", *arguments]
        return Child(name, argv, log=self.directory / f"{name}.log", cwd=self.directory)

    def _settings(self, caddy: Caddy) -> dict[str, object]:
        return {
            "database": "embedded",
            "state_dir": str(self.directory / "state"),
            "replica": "demo",
            "issuers": {
                "internal": {
                    "directory": caddy.directory_url,
                    "ca_file": str(caddy.ca_file),
                    "roots_file": str(caddy.ca_file),
                }
            },
            "http01": {"listen": f"{HOST}:{self.http01_port}"},
            "sds": {"listen": f"{HOST}:{self.sds_port}"},
            "admin": {"listen": f"{HOST}:{self.admin_port}"},
            "secrets": {SECRET: {"domains": [DOMAIN], "issuer": "internal"}},
            # The demo registers its proxy: nothing completes before it is there to be looked at.
            "rotation": {"settle": "1h"},
        }
