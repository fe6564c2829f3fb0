"""HTTP APIs of DNS providers on loopback, as their documents describe them, and a front of a real one.

What stands in ``planned`` is answered in place of the next requests: a 429, a 503, silence.
"""

import asyncio
import base64
import itertools
import json
from collections import defaultdict, deque
from typing import Any, Self

import aiohttp
from aiohttp import web

from acme_engine.dns01 import record_value

SILENCE = "silence"

SECRET = "s3cret-that-is-in-no-message"
WRONG = "wr0ng-that-is-in-no-message-either"


def planned(status: int, text: str = "", **headers: str) -> web.Response:
    """Return an answer to be planned."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, text=text, headers=named)


class FakeApi:
    """Answers requests at ``url``; a subclass says how."""

    def __init__(self) -> None:
        self.planned: deque[web.Response | str] = deque()
        self.asked: list[tuple[str, str]] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        if self.planned:
            first = self.planned.popleft()
            if isinstance(first, str):
                await asyncio.Event().wait()
            return first
        await asyncio.sleep(0)
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError


class Front(FakeApi):
    """Sends everything on to a real API."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = upstream

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"host", "content-length"}}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as http,
            http.request(
                request.method,
                self._upstream + request.raw_path,
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
            ) as reply,
        ):
            kept = {k: v for k, v in reply.headers.items() if k.lower() == "content-type"}
            return web.Response(status=reply.status, body=await reply.read(), headers=kept)


class Cloudflare(FakeApi):
    """Zones and DNS records, as developers.cloudflare.com/api has them."""

    def __init__(self, *zones: str) -> None:
        super().__init__()
        self.zones = {zone: f"id-of-{n}" for n, zone in enumerate(zones)}
        self.records: dict[str, dict[str, Any]] = {}
        self._ids = (f"record-{n}" for n in itertools.count())

    async def look(self, name: str) -> set[str]:
        return {r["content"].strip('"') for r in self.records.values() if r["name"] == name}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token != SECRET:
            return self._no(403, 9109, f"Invalid access token {token}")
        _, _, zone, _, record, *_ = [*request.path.split("/"), "", "", ""]
        if not zone:
            name = request.query["name"]
            return self._yes([{"id": self.zones[name], "name": name}] if name in self.zones else [])
        if zone not in self.zones.values():
            return self._no(404, 7003, "Could not route to this object")
        match request.method:
            case "DELETE":
                return self._deleted(record)
            case "POST":
                return self._created(zone, await request.json())
        return self._listed(request)

    def _deleted(self, record: str) -> web.Response:
        if self.records.pop(record, None) is None:
            return self._no(404, 81044, "Record does not exist.")
        return self._yes({"id": record})

    def _listed(self, request: web.Request) -> web.Response:
        found = [r for r in self.records.values() if r["name"] == request.query["name"]]
        size, page = int(request.query["per_page"]), int(request.query["page"])
        return self._yes(found[(page - 1) * size : page * size])

    def _created(self, zone: str, wanted: dict[str, Any]) -> web.Response:
        if wanted["ttl"] != 1 and wanted["ttl"] < 60:
            return self._no(400, 9021, "Invalid TTL. Must be 60 to 86400 s.")
        if any(wanted.items() <= record.items() for record in self.records.values()):
            return self._no(400, 81058, "An identical record already exists.")
        record = {"id": next(self._ids), "zone": zone, **wanted}
        self.records[record["id"]] = record
        return self._yes(record)

    def _yes(self, result: object) -> web.Response:
        return web.json_response({"success": True, "errors": [], "messages": [], "result": result})

    def _no(self, status: int, code: int, message: str) -> web.Response:
        errors = [{"code": code, "message": message}]
        return web.json_response({"success": False, "errors": errors, "result": None}, status=status)


class AcmeDns(FakeApi):
    """What acme-dns' README describes: two values of a subdomain, the older one is overwritten."""

    def __init__(self, domain: str) -> None:
        super().__init__()
        self.domain = domain
        self.values: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=2))

    def account(self, subdomain: str, *, password: str = SECRET) -> dict[str, object]:
        """Return what /register answered."""
        return {
            "username": f"user-of-{subdomain}",
            "password": password,
            "fulldomain": f"{subdomain}.{self.domain}",
            "subdomain": subdomain,
            "allowfrom": [],
        }

    async def look(self, name: str) -> set[str]:
        return set(self.values[name])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        user, key = request.headers.get("X-Api-User"), request.headers.get("X-Api-Key")
        if user != f"user-of-{wanted['subdomain']}" or key != SECRET:
            return web.json_response({"error": "forbidden", "key": key}, status=401)
        if len(wanted["txt"]) != 43:
            return web.json_response({"error": "bad_txt"}, status=400)
        self.values[f"{wanted['subdomain']}.{self.domain}"].append(wanted["txt"])
        return web.json_response({"txt": wanted["txt"]})


class Webhook(FakeApi):
    """A webhook behind lego's `httpreq`, in both modes."""

    LOGIN = base64.b64encode(f"certvoy:{SECRET}".encode()).decode()

    def __init__(self) -> None:
        super().__init__()
        self.values: defaultdict[str, set[str]] = defaultdict(set)
        self.bodies: list[dict[str, str]] = []

    async def look(self, name: str) -> set[str]:
        return set(self.values[name])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        said = request.headers.get("Authorization", "").removeprefix("Basic ")
        if said != self.LOGIN:
            return web.Response(status=401, text=f"{said} is nobody: {base64.b64decode(said).decode()}")
        wanted = json.loads(await request.read())
        self.bodies.append(wanted)
        raw = "keyAuth" in wanted
        name = f"_acme-challenge.{wanted['domain']}" if raw else wanted["fqdn"].removesuffix(".")
        value = record_value(wanted["keyAuth"]) if raw else wanted["value"]
        change = {"/present": set.add, "/cleanup": set.discard}[request.path]
        change(self.values[name], value)
        return web.Response()
