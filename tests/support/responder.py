"""An OCSP responder on loopback, of a test CA; what it says can be changed."""

import asyncio
from base64 import b64decode
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.support.pki import Authority, staple

if TYPE_CHECKING:
    from cryptography import x509

GOOD = ocsp.OCSPCertStatus.GOOD
REVOKED = ocsp.OCSPCertStatus.REVOKED


class Responder:
    """Answers about every certificate that is ``known``.

    ``says``: the status; ``down``: HTTP 503 to all; ``only_post``: 405 to GETs; ``answer``: what it sends in
    place of a response; ``redirect``: where it sends everybody; ``holds``: it never answers.
    """

    def __init__(self, ca: Authority) -> None:
        self._ca = ca
        self.known: dict[int, x509.Certificate] = {}
        self.says = GOOD
        self.begins: datetime | None = None
        self.lasts: timedelta | None = timedelta(days=4)
        self.down = self.only_post = self.holds = False
        self.answer: bytes | None = None
        self.redirect: str | None = None
        self.asked: list[str] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{asked:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.method)
        if self.holds:
            await asyncio.Event().wait()
        if self.down:
            return web.Response(status=503)
        if self.redirect is not None:
            return web.Response(status=302, headers={"Location": self.redirect})
        if self.only_post and request.method == "GET":
            return web.Response(status=405)
        if self.answer is not None:
            return self._said(self.answer)
        der = await request.read() if request.method == "POST" else b64decode(unquote(request.path[1:]))
        found = self.known.get(ocsp.load_der_ocsp_request(der).serial_number)
        if found is None:
            unauthorized = ocsp.OCSPResponseStatus.UNAUTHORIZED
            said = ocsp.OCSPResponseBuilder.build_unsuccessful(unauthorized)
            return self._said(said.public_bytes(Encoding.DER))
        options: dict[str, Any] = {} if self.begins is None else {"begins": self.begins}
        return self._said(staple(self._ca, found, status=self.says, lasts=self.lasts, **options))

    def _said(self, der: bytes) -> web.Response:
        return web.Response(body=der, content_type="application/ocsp-response")
