"""``/v1/secrets/{name}/bundle``: chain and private key, for programs that do not speak SDS.

The same doors as on a stream: the identity of the client certificate, the one decision about grants, what the
Catalog holds (opened and judged by the publisher, served from memory), and an observer that is told of it.
"""

import asyncio
import re
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Final, Literal

from aiohttp import hdrs
from pydantic import BaseModel, Field

from acme_engine import chain as chains
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.admin.services import Services
from sds_server.admin.targets import NodeId
from sds_server.errors import NotFound, Unavailable
from sds_server.log import get
from sds_server.model import Kind, TargetKind
from sds_server.xds import codec
from sds_server.xds.caller import Denied
from sds_server.xds.catalog import ABSENT, Entry, Resource
from sds_server.xds.service import PeerNode

PEM: Final = "application/x-pem-file"

LOAD_S: Final = 5.0
"""A name that nobody has asked for is read from the database and opened by the KMS first."""

WAIT_MAX_S: Final = 60

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE)

_log = get("bundle")

AgentKind = Annotated[
    Literal[TargetKind.NGINX, TargetKind.HAPROXY, TargetKind.TRAEFIK, TargetKind.CADDY, TargetKind.FILES],
    Field(description="What serves it, where certvoy does not know yet."),
]


class BundleQuery(Shape):
    """Who serves it: as which target its fetches count; without, as one named like the identity."""

    target: NodeId | None = None
    kind: AgentKind = TargetKind.FILES


class Bundle(BaseModel):
    """What a program that terminates TLS needs to serve a secret: chain and private key, as PEM.

    ``private_key`` is null where the target keeps it: it knows the key by the leaf's public half.
    """

    name: str
    generation: int
    version: str
    fingerprint_sha256: str
    not_after: datetime
    chain: str
    private_key: str | None = Field(repr=False)


async def get_bundle(call: Call) -> Answer:
    """Return the pair to who is granted the name, at once or when there is a new one."""
    services, name, query = call.services, call.path["name"], call.query(BundleQuery)
    peer = PeerNode(call.identity, query.target or call.identity, query.kind)
    check_grant(services, peer, name)
    as_pem = _wants_pem(call.headers.get(hdrs.ACCEPT, ""))
    wait_s = _wait(call.headers.get("Prefer", ""))

    def is_news(entry: Entry) -> bool:
        return entry is ABSENT or (isinstance(entry, Resource) and not call.is_known(_etag(entry, as_pem)))

    services.observer.subscribed(peer, name)
    try:
        entry = await _next(services, peer, name, is_news, wait_s=wait_s or 0)
        call.check_admitted()  # it may have been removed meanwhile
        check_grant(services, peer, name)
        if entry is ABSENT:
            raise _none(name)
        if isinstance(entry, Resource) and entry.kind is not Kind.TLS_CERTIFICATE:
            raise NotFound(
                f"secret {name}: it is a {entry.kind}, and only certificates come as bundles",
                hint="an Envoy gets it over SDS; `certvoy show` prints a trust bundle",
            )
        if not isinstance(entry, Resource):
            raise NotFound(
                f"secret {name}: nothing is issued yet",
                hint=f"`certvoy why {name}` says what it waits for; a client waits by `Prefer: wait=60`",
            )
        entry = entry.unstapled  # a new staple alone is no news for who does not staple ours
        headers = {"ETag": _etag(entry, as_pem), "Vary": "Accept", "Cache-Control": "no-store"}
        if wait_s is not None:
            headers["Preference-Applied"] = f"wait={wait_s}"
        if not is_news(entry):
            return Answer(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        services.observer.sent(peer, entry)
        _log.info(
            "bundle.sent", secret=name, identity=peer.identity, target=peer.node_id, version=entry.version
        )
        return _answer(entry, headers, as_pem=as_pem)
    finally:
        services.observer.disconnected(peer, name)


def check_grant(services: Services, peer: PeerNode, name: str) -> None:
    """Ask the one decision about grants, and tell of a no.

    Raises:
        NotFound: the peer may not see the name, which looks like a name that is not there.
    """
    if not services.authorize(peer.identity, name):
        services.observer.denied(peer, name, Denied.UNGRANTED)
        raise _none(name)


def _none(name: str) -> NotFound:
    return NotFound(
        f"secret {name}: there is none of that name for this client certificate",
        hint="check the name, and that `grants` has it for the identity of the certificate",
    )


async def _next(
    services: Services, peer: PeerNode, name: str, is_news: Callable[[Entry], bool], *, wait_s: float
) -> Entry:
    """Return what is known of the name: news at once, else what is there after ``wait_s``.

    Raises:
        Unavailable: this replica cannot load the name now.
    """
    catalog, clock = services.catalog, services.clock
    started = clock.monotonic()
    changed = asyncio.Event()

    def wake(_name: str) -> None:
        changed.set()

    catalog.watch([name], wake)
    try:
        while True:
            changed.clear()
            entry = catalog.look(name, peer.peer)
            if entry is not None and is_news(entry):
                return entry
            left_s = started + (LOAD_S if entry is None else wait_s) - clock.monotonic()
            if left_s <= 0:
                break
            pause, change = asyncio.create_task(clock.sleep(left_s)), asyncio.create_task(changed.wait())
            try:
                await asyncio.wait({pause, change}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                change.cancel()
    finally:
        catalog.unwatch([name], wake, now=clock.monotonic())
    if entry is None:
        raise Unavailable(f"secret {name}: not loaded within {LOAD_S:g} s", hint="ask again, or see /readyz")
    return entry


def _answer(entry: Resource, headers: dict[str, str], *, as_pem: bool) -> Answer:
    chain, key = codec.chain_and_key(entry.body)
    if as_pem:
        return Answer(chain + key, headers=headers, content_type=PEM)
    leaf = chains.parse(chain)
    bundle = Bundle(
        name=entry.name,
        generation=entry.generation,
        version=entry.version,
        fingerprint_sha256=leaf.fingerprint,
        not_after=leaf.not_after,
        chain=chain.decode(),
        private_key=None if entry.keyless else key.decode(),
    )
    return Answer(bundle, headers=headers)


def _etag(entry: Resource, as_pem: bool) -> str:  # noqa: FBT001 - which of two representations
    """Return a strong validator: equal on all replicas, and of one representation (RFC 9110 s. 8.8.3)."""
    return f'"{entry.version}.{"pem" if as_pem else "json"}"'


def _wants_pem(accept: str) -> bool:
    """Whether PEM is what the caller names first of the two that there are; JSON for any other wish."""
    for wish in accept.split(","):
        kind = wish.partition(";")[0].strip().lower()
        if kind in {PEM, "application/json"}:
            return kind == PEM
    return False


def _wait(prefer: str) -> int | None:
    """Return for how many seconds the caller would wait (RFC 7240 section 4.3), at most `WAIT_MAX_S`."""
    found = _WAIT.search(prefer)
    return None if found is None else min(int(found[1]), WAIT_MAX_S)


ROUTES = (
    Route(
        method="GET",
        path="/v1/secrets/{name}/bundle",
        handler=get_bundle,
        summary="Get chain and private key by client certificate; with If-None-Match and `Prefer: wait=N`, "
        "the next ones",
        scope=None,
        peer=True,
        query=BundleQuery,
        answers={HTTPStatus.OK: Bundle, HTTPStatus.NOT_MODIFIED: None},
        also=PEM,
    ),
)
