"""A web server on loopback with revocation lists of a test CA, as static files: ETag, 304."""

from typing import Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


class Lists:
    """Serves ``files`` by their paths; ``down``: HTTP 503 to all; ``asked``: path and status of each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.down = False
        self.asked: list[tuple[str, int]] = []
        self._runner: web.AppRunner | None = None

    def put(self, path: str, pem: str) -> str:
        """Publish a list as CAs do, in DER, and return its URL."""
        self.files[path] = x509.load_pem_x509_crl(pem.encode()).public_bytes(Encoding.DER)
        return f"{self.url}{path}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        answer = self._answer(request)
        self.asked.append((request.path, answer.status))
        return answer

    def _answer(self, request: web.Request) -> web.Response:
        content = self.files.get(request.path)
        if self.down or content is None:
            return web.Response(status=503 if self.down else 404)
        etag = f'"{hash(content):x}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=content, headers={"ETag": etag}, content_type="application/pkix-crl")
