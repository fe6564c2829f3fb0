"""The demo's parts, all real and all ours: a CA, the control plane with its PostgreSQL, an Envoy, a client.

Everything listens on free ports of loopback, lives in one directory, and dies with us.
"""

import asyncio
import hashlib
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sds_server import foundation
from sds_server.config import load
from sds_server.errors import Unavailable
from sds_server.inventory.database import Database, open_database
from sds_server.programs import envoy
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import Child, free_port
from sds_server.xds.bootstrap import ControlPlane, TlsListener, bootstrap

HOST: Final = "127.0.0.1"
SECRET: Final = "www"  # noqa: S105 - its name
DOMAIN: Final = "www.demo.test"
NODE: Final = "edge-1"
IDENTITY: Final = f"spiffe://demo.test/{NODE}"
CONTROL_PLANE: Final = "control-plane.demo.test"
WAIT_S: Final = 60.0
POLL_S: Final = 0.02

CredentialPaths = tuple[Path, Path]


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
        self.http01_port = free_port()
        self.envoy_port = free_port()
        self.config = directory / "certvoy.yaml"
        self._caddy: Caddy | None = None
        self._control_plane: Child | None = None
        self._envoy: envoy.Envoy | None = None
        self._server, self._client, self._client_ca = _credentials(directory)

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
        self._control_plane = Child(
            "certvoy",
            [sys.executable, "-m", "sds_server", "serve", "--config", self.config, "--ports-file", ready],
            log=self.directory / "certvoy.log",
            cwd=self.directory,
        )

        async def answers() -> bool:
            return ready.exists()

        await self._control_plane.ready(answers, timeout_s=WAIT_S)

    def kill_control_plane(self) -> None:
        """End it as by `kill -9`; its PostgreSQL goes with it."""
        if self._control_plane is not None:
            self._control_plane.kill()

    async def start_envoy(self) -> None:
        """Start an Envoy that asks for the secret over delta ADS and mTLS."""
        certificate, key = self._client
        configuration = bootstrap(
            node_id=NODE,
            cluster="edge",
            control_plane=ControlPlane(
                host=HOST,
                port=self.sds_port,
                server_name=CONTROL_PLANE,
                ca=self._client_ca,
                certificate=certificate,
                private_key=key,
            ),
            listeners=[TlsListener(name="https", secret=SECRET, port=self.envoy_port)],
        )
        self._envoy = await envoy.start(configuration, self.directory)

    async def stop(self) -> None:
        """Stop what runs."""
        for part in (self._envoy, self._control_plane, self._caddy):
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
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.directory,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise NotVerified(f"certvoy {' '.join(arguments)}: {output.decode().strip()}")
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

    def _settings(self, caddy: Caddy) -> dict[str, object]:
        certificate, key = self._server
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
            "sds": {
                "listen": f"{HOST}:{self.sds_port}",
                "certificate": str(certificate),
                "key": str(key),
                "client_ca": str(self._client_ca),
            },
            "secrets": {SECRET: {"domains": [DOMAIN], "issuer": "internal"}},
            "grants": [{"identity": IDENTITY, "names": [SECRET]}],
            # The demo registers its proxy: nothing completes before it is there to be looked at.
            "rotation": {"settle": "1h"},
        }


def _credentials(directory: Path) -> tuple[CredentialPaths, CredentialPaths, Path]:
    """Make what Envoy and the control plane know each other by: a CA and one certificate each, in files."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "certvoy demo: proxies")])
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    ca_path = directory / "proxies-ca.pem"
    ca_path.write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def issue(name: str, san: x509.GeneralName) -> CredentialPaths:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(x509.Name([]), ca_name, key)
            .add_extension(x509.SubjectAlternativeName([san]), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        certificate_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate_path, key_path

    server = issue("control-plane", x509.DNSName(CONTROL_PLANE))
    client = issue(NODE, x509.UniformResourceIdentifier(IDENTITY))
    return server, client, ca_path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=2))
    )
