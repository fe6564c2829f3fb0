"""Just enough of a CA, over plain HTTP on loopback, to lie: replies are queued, requests are kept."""

import json
import ssl
from base64 import urlsafe_b64decode
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509

from tests.support import pki

PROBLEM = "urn:ietf:params:acme:error:"


def problem(code: str, **more: Any) -> str:
    return json.dumps({"type": PROBLEM + code, "detail": f"it is {code}", **more})


@dataclass
class Request:
    """One signed request, opened."""

    path: str
    raw: bytes
    headers: dict[str, str]
    protected: dict[str, Any]
    payload: Any


@dataclass
class FakeCa:
    """One order at a time, whose state is public."""

    requests: list[Request] = field(default_factory=list)
    token: str = "t" * 43
    names: list[str] = field(default_factory=list)
    order: dict[str, Any] = field(default_factory=dict)
    authorization: dict[str, Any] = field(default_factory=dict)
    challenge: dict[str, Any] = field(default_factory=dict)
    directory: dict[str, Any] = field(default_factory=dict)
    validates: bool = True
    chain: bytes = b""
    url: str = ""
    heads: int = 0
    orders: int = 0

    def __post_init__(self) -> None:
        self._queued: dict[str, list[web.Response]] = defaultdict(list)
        self._nonces = (f"nonce-{n}" for n in count())
        self._authority = pki.authority()

    def next(self, path: str, status: int, body: str | bytes = "", **headers: str) -> None:
        """Answer the next request to a path with this, and do nothing."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._queued[path].append(
            web.Response(status=status, body=body.encode() if isinstance(body, str) else body, headers=named)
        )

    def posts(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    @property
    def order_url(self) -> str:
        return f"{self.url}/order"

    @property
    def directory_url(self) -> str:
        return f"{self.url}/directory"

    async def handle(self, request: web.Request) -> web.Response:
        path = request.path
        if request.method == "POST":
            self._keep(request, await request.read())
        elif request.method == "HEAD":
            self.heads += 1
        response = self._queued[path].pop(0) if self._queued[path] else self._answer(path)
        response.headers.setdefault("Replay-Nonce", next(self._nonces))
        return response

    def _keep(self, request: web.Request, raw: bytes) -> None:
        body = json.loads(raw)
        payload = _open(body["payload"])
        self.requests.append(
            Request(
                request.path,
                raw,
                dict(request.headers),
                json.loads(_open(body["protected"])),
                json.loads(payload) if payload else None,
            )
        )

    def _answer(self, path: str) -> web.Response:  # noqa: PLR0911 - a table of paths
        match path:
            case "/nonce":
                return web.Response()
            case "/directory":
                urls = {"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/new-order"}
                urls["revokeCert"] = "/revoke"
                document = {name: self.url + at for name, at in urls.items()} | {"random": "key"}
                return web.json_response(document | self.directory)
            case "/account":
                return web.json_response({"status": "valid"}, status=201, headers={"Location": "/account/1"})
            case "/new-order":
                self.orders += 1
                self.names = [i["value"] for i in self.requests[-1].payload["identifiers"]]
                self.order = {"status": "pending"} | self.order
                return web.json_response(self._order(), status=201, headers={"Location": self.order_url})
            case "/order":
                return web.json_response(self._order())
            case "/authorization":
                return web.json_response(self._authorization())
            case "/challenge":
                if self.validates:
                    self.authorization["status"] = self.challenge["status"] = "valid"
                    self.order["status"] = "ready"
                return web.json_response(self._challenge())
            case "/finalize":
                self._issue(_open(self.requests[-1].payload["csr"]))
                self.order["status"] = "valid"
                return web.json_response(self._order())
            case "/revoke":
                return web.Response()
            case "/certificate":
                return web.Response(body=self.chain)
        return web.Response(status=404, text=problem("malformed"))

    def _order(self) -> dict[str, Any]:
        return {
            "identifiers": [{"type": "dns", "value": name} for name in self.names],
            "authorizations": [f"{self.url}/authorization"],
            "finalize": f"{self.url}/finalize",
            "certificate": f"{self.url}/certificate",
        } | self.order

    def _authorization(self) -> dict[str, Any]:
        return {
            "status": "pending",
            "identifier": {"type": "dns", "value": self.names[0]},
            "challenges": [
                {"type": "tomorrow-01", "url": f"{self.url}/x", "status": "pending"},
                self._challenge(),
            ],
        } | self.authorization

    def _challenge(self) -> dict[str, Any]:
        known = {"type": "http-01", "url": f"{self.url}/challenge", "status": "pending", "token": self.token}
        return known | self.challenge

    def _issue(self, der: bytes) -> None:
        request = x509.load_der_x509_csr(der)
        self.chain = self.chain or self._authority.issue(self.names, key=_OfRequest(request)).chain_pem


class _OfRequest:
    """Stands for the key that only the requester has: its public half is enough for `pki`."""

    def __init__(self, request: x509.CertificateSigningRequest) -> None:
        self.public_key = request.public_key

    def private_bytes(self, *_: object) -> bytes:
        return b""


@asynccontextmanager
async def fake_ca(directory: Path | None = None) -> AsyncIterator[FakeCa]:
    """Run one; over HTTPS where there is a directory, in which `fake-ca.pem` is what to trust then."""
    ca, context = FakeCa(), None
    if directory is not None:
        authority = pki.authority("Fake CA's API")
        authority.write(directory / "fake-ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue([], ips=["127.0.0.1"]).write(directory, "fake-ca-api"))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", ca.handle)
    server = TestServer(app, scheme="http" if context is None else "https")
    await server.start_server(ssl=context)
    try:
        ca.url = str(server.make_url("")).rstrip("/")
        yield ca
    finally:
        await server.close()


def _open(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
