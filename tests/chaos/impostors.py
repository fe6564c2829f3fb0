"""Targets that do not do what they say: one on the xDS stream, one that fetches bundles as an agent does.

Honest by default. Both serve over a TLS listener of ours, so that what they show is ours to decide.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import aiohttp
import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3 import discovery_pb2 as pb

import tests.xds.quiet  # noqa: F401
from tests.chaos.targets import HOST, Listener, Target
from tests.support.control_plane import SERVER_NAME
from tests.support.pki import Authority

TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
PAUSE_S = 0.2
"""Before the next replica is tried."""

WAIT_S = 5
"""How long the agent lets a replica think about news."""


class Conduct(StrEnum):
    """What an impostor does with a new pair."""

    OBEY = "obey"
    REFUSE = "refuse"
    """Says no, and serves on with the old one."""

    DEAF = "deaf"
    """Says yes, and serves on with the old one."""

    LIAR = "liar"
    """Says that it has seen the new one served, and serves on with the old one."""


class Impostor:
    """A listener, and the pair that it holds but may not show."""

    def __init__(self, target: Target, directory: Path, clients: Authority) -> None:
        self.target = target
        self.identity = f"spiffe://chaos.test/{target.name}"
        self.conduct = Conduct.OBEY
        self.resent = 0
        """How often content came again that it had refused."""

        directory.mkdir(mode=0o700)
        self._listener = Listener(directory)
        self._authority = clients
        self._pair = clients.issue(uris=[self.identity])
        self._files = self._pair.write(directory, "client")
        self._held: tuple[bytes, bytes] | None = None
        self._shown: list[tuple[bytes, bytes]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    @property
    def started(self) -> bool:
        """It listens."""
        return self._server is not None

    async def start(self) -> None:
        """Listen, and ask for the Secret for ever."""
        self._server = await asyncio.start_server(
            _hang_up, HOST, self.target.port, ssl=self._listener.context
        )
        self._tasks = [asyncio.create_task(self._run())]

    async def stop(self) -> None:
        """Listen no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            self._server.close()

    def heal(self) -> None:
        """Be honest again, and show what it has."""
        self.conduct = Conduct.OBEY
        self._show()

    def relapse(self) -> None:
        """Show the pair before, as after a restart with an old file, until it is given other bytes."""
        self._listener.serve(*self._shown[-2])

    def _take(self, chain: bytes, key: bytes) -> None:
        self._held = chain, key
        if self.conduct is Conduct.OBEY:
            self._show()

    def _show(self) -> None:
        if self._held is not None:
            if self._held not in self._shown[-1:]:
                self._shown = [*self._shown[-1:], self._held]
            self._listener.serve(*self._held)

    async def _run(self) -> None:
        raise NotImplementedError


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


class XdsImpostor(Impostor):
    """Speaks delta SDS by hand, with an identity of its own."""

    def __init__(self, target: Target, directory: Path, clients: Authority, servers: Sequence[int]) -> None:
        super().__init__(target, directory, clients)
        self._servers = servers
        self._good: str | None = None
        self._refused: set[str] = set()

    async def _run(self) -> None:
        options = [
            ("grpc.ssl_target_name_override", SERVER_NAME),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        credentials = grpc.ssl_channel_credentials(
            self._authority.pem, self._pair.key_pem, self._pair.chain_pem
        )
        while True:
            for port in self._servers:
                async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials, options) as channel:
                    with contextlib.suppress(
                        grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError
                    ):
                        await self._converse(channel)
                await asyncio.sleep(PAUSE_S)

    async def _converse(self, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(METHOD)()
        first = pb.DeltaDiscoveryRequest(
            node=Node(id=self.target.name),
            type_url=TYPE_URL,
            resource_names_subscribe=[self.target.secret],
        )
        await call.write(first.SerializeToString())
        while (data := await call.read()) is not grpc.aio.EOF:
            response = pb.DeltaDiscoveryResponse.FromString(data)
            answer = pb.DeltaDiscoveryRequest(type_url=TYPE_URL, response_nonce=response.nonce)
            for resource in response.resources:
                if not self._judge(resource):
                    answer.error_detail.message = "chaos: not this one"
            await call.write(answer.SerializeToString())

    def _judge(self, resource: pb.Resource) -> bool:
        if resource.version in self._refused:
            self.resent += 1
        if self.conduct is Conduct.REFUSE and resource.version != self._good:
            self._refused.add(resource.version)
            return False
        if resource.version == self._good:
            return True  # as Envoy: what it has already changes nothing
        self._good = resource.version
        self._load(Secret.FromString(resource.resource.value))
        return True

    def _load(self, secret: Secret) -> None:
        pair = secret.tls_certificate
        self._take(pair.certificate_chain.inline_bytes, pair.private_key.inline_bytes)


class AgentImpostor(Impostor):
    """Fetches bundles and reports, as the agent of a proxy that speaks no SDS."""

    def __init__(self, target: Target, directory: Path, clients: Authority, servers: Sequence[int]) -> None:
        super().__init__(target, directory, clients)
        self._servers = servers
        ca = clients.write(directory / "servers.pem")
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._tls.load_cert_chain(*self._files)

    async def _run(self) -> None:
        etag = ""
        timeout = aiohttp.ClientTimeout(total=3 * WAIT_S)
        while True:
            for port in self._servers:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with aiohttp.ClientSession(timeout=timeout) as http:
                        while True:
                            etag = await self._round(http, f"https://{HOST}:{port}", etag)
                await asyncio.sleep(PAUSE_S)

    async def _round(self, http: aiohttp.ClientSession, server: str, etag: str) -> str:
        """Fetch, load, report; returns the ETag to go on with: an old one where the report was not taken."""
        url = f"{server}/v1/secrets/{self.target.secret}"
        headers = {"If-None-Match": etag, "Prefer": f"wait={WAIT_S}"}
        query = {"target": self.target.name, "kind": "files"}
        async with http.get(
            f"{url}/bundle", params=query, headers=headers, ssl=self._tls, server_hostname=SERVER_NAME
        ) as response:
            if response.status != 200:
                if response.status != 304:
                    await asyncio.sleep(PAUSE_S)
                return etag
            bundle, fresh = await response.json(), response.headers["ETag"]
        self._take(bundle["chain"].encode(), bundle["private_key"].encode())
        about = {"target": self.target.name, "kind": "files", "generation": bundle["generation"]}
        said: list[dict[str, object]] = [about | {"state": "accepted"}]
        if self.conduct is not Conduct.DEAF:
            said.append(about | {"state": "proved", "served_fingerprint": bundle["fingerprint_sha256"]})
        for report in said:
            async with http.post(
                f"{url}/deliveries", json=report, ssl=self._tls, server_hostname=SERVER_NAME
            ) as response:
                if response.status != 200:
                    return etag
        return fresh
