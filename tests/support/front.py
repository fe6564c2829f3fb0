"""The control plane's door to agents, with nothing behind it: any bundle can come out, bad ones too."""

import asyncio
import json
import re
import ssl
from contextlib import suppress

from aiohttp import web

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
        app = web.Application()
        app.router.add_get("/v1/secrets/{name}/bundle", self._bundle)
        app.router.add_post("/v1/secrets/{name}/deliveries", self._deliveries)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port, ssl_context=context, reuse_address=True).start()

    async def stop(self):
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

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
