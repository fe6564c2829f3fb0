"""``/v1/traefik``: what Traefik's HTTP provider polls: every pair that a client certificate is granted.

The doors are those of a bundle: the identity of the client certificate, the one decision about grants, what
the Catalog holds, an observer that is told. Traefik takes an answer for all that there is, and drops what is
missing in it. So while one name cannot be loaded there is no answer at all, and never an empty one: Traefik
keeps what it has.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel, Field

from sds_server.admin.bundles import LOAD_S
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.admin.services import Services
from sds_server.admin.targets import NodeId
from sds_server.errors import Forbidden, NotFound, Unavailable
from sds_server.inventory import secrets
from sds_server.log import get
from sds_server.model import Identity, Kind, TargetKind
from sds_server.xds import codec
from sds_server.xds.catalog import Entry, Resource
from sds_server.xds.service import PeerNode

MAX_NAMES: Final = 1000
"""Of one client certificate: some megabytes in an answer, which Traefik asks for again and again."""

NAMED: Final = 3
"""How many names an error lists."""

_log = get("traefik")


class TraefikQuery(Shape):
    """As which target the Traefik counts; without, as one named like the identity."""

    target: NodeId | None = None


class TraefikCertificate(BaseModel):
    """A pair, inline as PEM where Traefik's names promise files."""

    certFile: str  # noqa: N815 - Traefik's name
    keyFile: str = Field(repr=False)  # noqa: N815


class TraefikTls(BaseModel):
    """The part of a dynamic configuration that is about TLS."""

    certificates: list[TraefikCertificate]


class TraefikConfiguration(BaseModel):
    """A dynamic configuration for Traefik, of certificates alone."""

    tls: TraefikTls


async def get_configuration(call: Call) -> Answer:
    """Return every pair that the client certificate is granted, as Traefik reads it."""
    services, identity = call.services, call.identity
    peer = PeerNode(identity, call.query(TraefikQuery).target or identity, TargetKind.TRAEFIK)
    names = await _granted(services, identity)
    for name in names:
        services.observer.subscribed(peer, name)
    try:
        entries = await _loaded(services, peer, names)
        call.check_admitted()  # it may have been removed meanwhile
        # Neither what is granted no more, not there or not issued yet, nor a chain without its key.
        resources = [
            entry
            for name, entry in sorted(entries.items())
            if isinstance(entry, Resource) and not entry.keyless and services.authorize(identity, name)
        ]
        if not resources:
            raise NotFound(
                f"{identity}: nothing is issued of what it is granted",
                hint="an empty answer would take from Traefik what it has: ask again later, or `certvoy ls`",
            )
        headers = {"ETag": _etag(resources), "Cache-Control": "no-store"}
        for resource in resources:
            services.observer.sent(peer, resource)
        if call.is_known(headers["ETag"]):
            return Answer(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        _log.debug("configuration.sent", identity=identity, target=peer.node_id, certificates=len(resources))
        return Answer(_configuration(resources), headers=headers)
    finally:
        for name in names:
            services.observer.disconnected(peer, name)


async def _granted(services: Services, identity: Identity) -> Sequence[str]:
    """Return the names of certificates that the identity may see, from memory unless a pattern grants them.

    Raises:
        NotFound: it may see none.
        Forbidden: more than an answer holds.
        Unavailable: they cannot be listed while the database is away.
    """
    rule = services.granted(identity, Kind.TLS_CERTIFICATE)
    names = set(rule.exact)
    if rule.prefixes or rule.suffixes:
        names |= set(
            await secrets.matching(
                services.database, prefixes=rule.prefixes, suffixes=rule.suffixes, limit=MAX_NAMES + 1
            )
        )
    allowed = sorted(name for name in names if services.authorize(identity, name))
    if not allowed:
        raise NotFound(f"{identity} is granted no name", hint="check `grants` for the client certificate")
    if len(allowed) > MAX_NAMES:
        raise Forbidden(
            f"{identity} is granted more than {MAX_NAMES:,} certificates, and they go in one answer",
            hint="give each Traefik an identity of its own, with the names that it serves",
        )
    return allowed


async def _loaded(services: Services, peer: PeerNode, names: Sequence[str]) -> Mapping[str, Entry]:
    """Return what is known of each name, as soon as something is known of all.

    Raises:
        Unavailable: this replica cannot load one of them now.
    """
    catalog, clock = services.catalog, services.clock
    ends = clock.monotonic() + LOAD_S
    changed = asyncio.Event()

    def wake(_name: str) -> None:
        changed.set()

    catalog.watch(names, wake)
    try:
        while True:
            changed.clear()
            entries = {name: catalog.look(name, peer.peer) for name in names}
            missing = [name for name, entry in entries.items() if entry is None]
            left_s = ends - clock.monotonic()
            if not missing:
                return {name: entry for name, entry in entries.items() if entry is not None}
            if left_s <= 0:
                break
            pause, change = asyncio.create_task(clock.sleep(left_s)), asyncio.create_task(changed.wait())
            try:
                await asyncio.wait({pause, change}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                change.cancel()
    finally:
        catalog.unwatch(names, wake, now=clock.monotonic())
    some = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
    raise Unavailable(
        f"{len(missing)} of {len(names)} certificates are not loaded within {LOAD_S:g} s: {some}",
        hint="Traefik keeps what it has, and asks again; see /readyz",
    )


def _configuration(resources: Sequence[Resource]) -> TraefikConfiguration:
    pairs = [codec.chain_and_key(resource.body) for resource in resources]
    certificates = [TraefikCertificate(certFile=chain.decode(), keyFile=key.decode()) for chain, key in pairs]
    return TraefikConfiguration(tls=TraefikTls(certificates=certificates))


def _etag(resources: Sequence[Resource]) -> str:
    """Return a strong validator, equal on all replicas."""
    content = "\n".join(f"{resource.name} {resource.unstapled.version}" for resource in resources)
    return f'"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'


ROUTES = (
    Route(
        method="GET",
        path="/v1/traefik",
        handler=get_configuration,
        summary="Get all granted pairs by client certificate, as the dynamic configuration of Traefik's "
        "HTTP provider",
        scope=None,
        peer=True,
        query=TraefikQuery,
        answers={HTTPStatus.OK: TraefikConfiguration, HTTPStatus.NOT_MODIFIED: None},
    ),
)
