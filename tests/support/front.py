"""The control plane's door to agents, with nothing behind it: any bundle can come out, bad ones too."""

import asyncio
import json
import re
import ssl
from contextlib import suppress

from aiohttp import web

from acme_engine import keys
from sds_server.agent.files import CredentialFiles
from sds_server.programs.child import free_port
from tests.support import pki

HOST = "127.0.0.1"
IDENTITY = "spiffe://example.test/web-1"


def bundle(pair, generation, *, secret="www", **other):
    """The JSON of a bundle, right or wrong."""
    return {
        "name": secret,
        "generation": generation,
        "version": f"v{generation}",
        "fingerprint_sha256": fingerprint(pair),
        "not_after": f"{pair.certificate.not_valid_after_utc:%FT%TZ}",
        "chain": pair.chain_pem.decode(),
        "private_key": pair.key_pem.decode(),
        **other,
    }


def fingerprint(pair):
    return pair.certificate.fingerprint(pki.hashes.SHA256()).hex()


class Front:
    """Serves bundles over mutual TLS, with ETag and `Prefer: wait`, and keeps what is reported."""

    def __init__(self, directory):
        self.directory = directory
        self.port = free_port()
        self.url = f"https://{HOST}:{self.port}"
        self.reports = []
        self.heard = []
        self.fetched = 0
        self._bodies = {}
        self._changed = asyncio.Event()
        self._servers, self._clients = pki.authority("servers"), pki.authority("clients")
        self._runner = None

    def offer(self, body):
        """What is current from now on."""
        self._bodies[body["name"]] = body
        self._changed.set()
        self._changed = asyncio.Event()

    def credential(self, directory):
        """Put a credential that it believes where an agent keeps its own."""
        pair = self._clients.issue(uris=[IDENTITY])
        CredentialFiles(directory).store(
            certificate_pem=pair.chain_pem.decode(),
            key_pem=pair.key_pem,
            authorities_pem=self._servers.pem.decode(),
        )

    async def start(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self._clients.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*self._servers.issue(ips=[HOST]).write(self.directory, "front"))
        app = web.Application(middlewares=[self._hear])
        app.router.add_get("/v1/secrets/{name}/bundle", self._bundle)
        app.router.add_post("/v1/secrets/{name}/deliveries", self._deliveries)
        self._add(app.router)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port, ssl_context=context, reuse_address=True).start()

    async def stop(self):
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _add(self, router):
        """More routes."""

    @web.middleware
    async def _hear(self, request, handler):
        said = f"{request.method} {request.raw_path}\n{request.raw_headers}\n".encode()
        self.heard.append(said + await request.read())
        return await handler(request)

    async def _bundle(self, request):
        self.fetched += 1
        secret, known = request.match_info["name"], request.headers.get("If-None-Match")
        wait = re.search(r"wait=(\d+)", request.headers.get("Prefer", ""))
        with suppress(TimeoutError):
            async with asyncio.timeout(int(wait[1]) if wait else 0):
                while self._etag(secret) == known:
                    await self._changed.wait()
        if secret not in self._bodies:
            return web.json_response({"detail": "nothing is issued yet", "hint": "wait"}, status=404)
        if self._etag(secret) == known:
            return web.Response(status=304)
        return web.json_response(self._bodies[secret], headers={"ETag": self._etag(secret)})

    def _etag(self, secret):
        body = self._bodies.get(secret)
        return None if body is None else f'"{body["version"]}.json"'

    async def _deliveries(self, request):
        said = json.loads(await request.text())
        body = self._bodies.get(request.match_info["name"])
        if body is None or said["generation"] != body["generation"]:
            return web.json_response({"detail": "not current", "hint": "fetch again"}, status=409)
        self.reports.append((said["state"], said["generation"], said.get("detail", "")))
        return web.json_response({})


class KeyFront(Front):
    """The same for a secret whose keys its agent makes: takes requests, and orders when it is told to."""

    def __init__(self, directory, ca, *, names):
        super().__init__(directory)
        self.ca, self.names = ca, names
        self.key_type = "ecdsa-p256"
        self.waits, self.used = None, []
        self.generation = 0
        self.lost = []
        self.cut = 0
        """So many answers are lost."""
        self.refusal = None
        """A status and a detail that requests are answered with."""

    def order(self):
        """Order the request that waits, and offer what comes of it."""
        key, self.waits = self.waits, None
        self.used.append(spki(key))
        self.generation += 1
        pair = self.ca.issue(dns=self.names, public_key=key)
        self.offer(bundle(pair, self.generation, private_key=None))
        return pair

    @property
    def offered(self):
        """What is current."""
        return self._bodies["www"]

    @property
    def current_leaf(self):
        return self.offered["fingerprint_sha256"]

    async def ordered(self):
        """Order as soon as a request waits."""
        async with asyncio.timeout(30):
            while self.waits is None:
                await asyncio.sleep(0.01)
        return self.order()

    def _add(self, router):
        router.add_get("/v1/secrets/{name}/csr", self._wanted)
        router.add_put("/v1/secrets/{name}/csr", self._brought)

    async def _wanted(self, _request):
        waits = None if self.waits is None else spki(self.waits)
        return web.json_response(
            {"domains": list(self.names), "key_type": self.key_type, "spki_sha256": waits}
        )

    async def _brought(self, request):
        if self.refusal is not None:
            status, detail = self.refusal
            return web.json_response({"detail": detail, "hint": "none"}, status=status)
        said = json.loads(await request.text())
        csr = pki.x509.load_pem_x509_csr(said["csr"].encode())
        if spki(csr.public_key()) not in self.used:
            self.waits = csr.public_key()
        self.lost.append(said.get("lost"))
        if self.cut:
            self.cut -= 1
            request.transport.abort()
        return await self._wanted(request)


def spki(public_key):
    """The hash that names a key, in hex."""
    return keys.spki_sha256(public_key).hex()
