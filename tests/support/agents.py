"""Agents of tests that take pushed bundles: the real endpoint and credential, before a listener of ours."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sds_server import authority
from sds_server.agent.door import Report
from sds_server.agent.files import CredentialFiles
from sds_server.agent.installers.installer import Rejected
from sds_server.agent.pair import Bundle, judge
from sds_server.agent.pushed import Endpoint, Pushable
from sds_server.clock import SystemClock
from sds_server.config.values import Listen
from sds_server.inventory import deployment
from sds_server.inventory.database import Database
from sds_server.inventory.proxies import GrantedName
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.enroller import Enroller
from sds_server.model import TargetKind
from sds_server.targets.probe import served_fingerprint
from tests.support.fakes import Listener
from tests.support.pki import Pair, new_key

HOST = "127.0.0.1"
LOOPBACK = ("127.0.0.0/8", "::1/128")


async def enroller_of(database: Database, directory: Path) -> Enroller:
    """The control plane's own CA, as a replica has it."""
    deployed, _ = await deployment.identify(database)
    clock = SystemClock()
    return Enroller(
        database=database,
        sealer=Sealer(LocalKms(directory / "kek", create=True), deployment=deployed, clock=clock),
        trust_domain="certvoy",
        lifetime=timedelta(hours=24),
        clock=clock,
        actor="replica:test",
    )


async def enrolled(
    enroller: Enroller, directory: Path, name: str, *, names: Sequence[str] = ("www",), roots: str = ""
) -> CredentialFiles:
    """Enrol a proxy and keep its credential in a directory; ``roots`` are others that its agent trusts."""
    granted = [GrantedName(one) for one in names]
    _, token, _ = await enroller.invite(name, granted=granted, lasts=timedelta(hours=1), actor="person:test")
    key = new_key()
    made = await enroller.enroll(token, authority.new_csr(key))
    files = CredentialFiles(directory / name)
    files.store(
        certificate_pem=made.certificate_pem,
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        authorities_pem=roots + made.authorities_pem,
    )
    return files


@dataclass
class Program:
    """What an agent brings bundles to: a listener that serves what it is given, if it likes it."""

    listener: Listener
    given: list[Bundle] = field(default_factory=list)
    dislikes: str | None = None
    keeps_old: bool = False
    sees: bool = True
    after: Callable[[], Awaitable[object]] | None = None
    """What happens elsewhere before it answers."""

    async def deliver(self, bundle: Bundle) -> Report:
        """Serve the bundle, look, and report, as the delivery of an agent does."""
        self.given.append(bundle)
        pair = judge(bundle, secret=bundle.secret, now=SystemClock().now())
        report = Report(bundle.secret, "accepted", TargetKind.NGINX, None, bundle.generation)
        if self.dislikes is not None:
            return replace(report, state="refused", detail=self.dislikes)
        if not self.keeps_old:
            key = serialization.load_pem_private_key(pair.key_pem.reveal(), None)
            leaf = x509.load_pem_x509_certificate(pair.chain_pem)
            self.listener.serve(Pair(pair.chain_pem, pair.key_pem.reveal(), leaf, key))  # type: ignore[arg-type]
        if self.after is not None:
            await self.after()
        if not self.sees:
            return report
        served = await served_fingerprint(self.listener.address, pair.names[0])
        if served != pair.fingerprint:
            return report
        return replace(report, state="proved", served=served, address=self.listener.address)

    async def check(self) -> None:
        """Judge the files as they lie."""
        if self.dislikes is not None:
            raise Rejected(self.dislikes)


@asynccontextmanager
async def agent(
    files: CredentialFiles, program: Program, *, secret: str = "www", target: str | None = None
) -> AsyncIterator[str]:
    """Run an agent's endpoint for the block; yields its URL."""
    bundle = Pushable(secret, target, deliver=program.deliver, check=program.check)
    endpoint = Endpoint([bundle], files, listen=Listen(HOST, 0), clock=SystemClock())
    port = await endpoint.start()
    try:
        yield f"https://{HOST}:{port}"
    finally:
        await endpoint.stop()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def answering(serve: Serve, pair: tuple[Path, Path] | None = None) -> AsyncIterator[str]:
    """Run any server for the block, with TLS by this pair of files; yields its URL."""
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, HOST, 0, ssl=context)
    try:
        yield f"https://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        for task in tasks:
            task.cancel()
        server.close()
        await server.wait_closed()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """Read a request to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-L")]
    return head + await reader.readexactly(length)
