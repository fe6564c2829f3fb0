"""What is no certificate, brought and changed: trust bundles, session ticket keys, generic secrets."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Final

from pydantic import Base64Bytes, Field, StringConstraints, model_validator

from sds_server.admin import secret_shapes, secrets
from sds_server.admin.payload_shapes import San
from sds_server.admin.routes import Answer, Call, Route, Shape, Text
from sds_server.errors import CallerError
from sds_server.inventory import ticket_schedules
from sds_server.inventory.payloads import Stored
from sds_server.model import Scope
from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.tickets import KEEP_MAX, TicketKeys
from sds_server.payloads.trust import SanMatcher, TrustBundle

PEM: Final = "application/x-pem-file"

ROTATE_EVERY_MIN_S: Final = 60

Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class PutBundle(Shape):
    """A trust bundle as it shall be: CAs in PEM, and what else the certificates must be that they signed.

    ``crls``: PEM, one of each CA, or of the leaf's issuer alone with ``leaf_crl_only``. ``sans``: one of
    these names. ``spki_pins`` (base64) and ``fingerprints`` (hex): the leaf is one of these.
    """

    cas: str
    crls: str = ""
    sans: Annotated[tuple[San, ...], Field(max_length=100)] = ()
    spki_pins: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    fingerprints: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    leaf_crl_only: bool = False
    max_depth: int | None = None


class PostCas(Shape):
    """CAs in PEM that are to be trusted as well."""

    cas: str


class RemoveQuery(Shape):
    """``force``: why the CA goes although somebody may still need it; the audit keeps it."""

    force: Text | None = None


class PutTickets(Shape):
    """Session ticket keys: how often certvoy makes one and how many it keeps, or keys that somebody brings.

    ``keys``: base64 of 80 bytes each, the one that encrypts first.
    """

    rotate_every_s: Annotated[float, Field(ge=ROTATE_EVERY_MIN_S, le=366 * 86_400)] | None = None
    keep: Annotated[int, Field(ge=1, le=KEEP_MAX)] = 3
    keys: Annotated[list[Base64Bytes], Field(max_length=KEEP_MAX)] | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_of_both(self) -> "PutTickets":
        if (self.rotate_every_s is None) == (self.keys is None):
            raise ValueError("say rotate_every_s, or bring keys")
        return self


class PutGeneric(Shape):
    """A generic secret: one value, or named ones, in base64."""

    value: Base64Bytes | None = Field(default=None, repr=False)
    values: Annotated[dict[Text, Base64Bytes], Field(max_length=100)] | None = Field(default=None, repr=False)


async def put_bundle(call: Call) -> Answer:
    """Make it the next version; one that is served already changes nothing."""
    wanted, name = call.body(PutBundle), secrets.named(call.path["name"])
    secrets.refuse_declared(call, name)
    bundle = TrustBundle.read(
        wanted.cas,
        wanted.crls,
        sans=tuple(SanMatcher(san.type, san.match, san.value) for san in wanted.sans),
        spki_pins=wanted.spki_pins,
        fingerprints=wanted.fingerprints,
        leaf_crl_only=wanted.leaf_crl_only,
        max_depth=wanted.max_depth,
    )
    return await _said(call, await call.services.payloads.put(name, bundle, actor=call.caller.actor))


async def add_cas(call: Call) -> Answer:
    """Send out the union of both."""
    wanted, name = call.body(PostCas), secrets.named(call.path["name"])
    secrets.refuse_declared(call, name)
    stored = await call.services.payloads.add_cas(name, wanted.cas, actor=call.caller.actor)
    return await _said(call, stored)


async def remove_ca(call: Call) -> Answer:
    """Send out the rest, unless a proxy or a certificate is in the way."""
    query, name = call.query(RemoveQuery), secrets.named(call.path["name"])
    secrets.refuse_declared(call, name)
    stored = await call.services.payloads.remove_ca(
        name, call.path["fingerprint"].lower().replace(":", ""), actor=call.caller.actor, forced=query.force
    )
    return await _said(call, stored)


async def put_tickets(call: Call) -> Answer:
    """Have keys made from now on, or make these the next version."""
    wanted, name = call.body(PutTickets), secrets.named(call.path["name"])
    secrets.refuse_declared(call, name)
    if wanted.keys is not None:
        keys = TicketKeys(tuple(wanted.keys))
        return await _said(call, await call.services.payloads.put(name, keys, actor=call.caller.actor))
    assert wanted.rotate_every_s is not None  # noqa: S101 - validated
    await call.services.payloads.schedule(
        name,
        rotate_every=timedelta(seconds=wanted.rotate_every_s),
        keep=wanted.keep,
        actor=call.caller.actor,
    )
    return await secrets.described(call.services, name)


async def rotate_tickets(call: Call) -> Answer:
    """Have the next key made now."""
    name = call.path["name"]
    # As it was before: who waits for the next one must know which is the last.
    before = await secrets.described(call.services, name, status=HTTPStatus.ACCEPTED)
    await ticket_schedules.hasten(call.services.database, name, actor=call.caller.actor)
    return before


async def put_generic(call: Call) -> Answer:
    """Make it the next version."""
    wanted, name = call.body(PutGeneric), secrets.named(call.path["name"])
    secrets.refuse_declared(call, name)
    if wanted.value is not None and wanted.values:
        raise CallerError("value, values: both are there", hint="send one value, or named ones")
    secret = GenericSecret(value=wanted.value, parts=wanted.values or {})
    return await _said(call, await call.services.payloads.put(name, secret, actor=call.caller.actor))


async def _said(call: Call, stored: Stored) -> Answer:
    status = HTTPStatus.ACCEPTED
    if stored.created:
        status = HTTPStatus.CREATED
    elif stored.unchanged:
        status = HTTPStatus.OK
    return await secrets.described(call.services, call.path["name"], status=status)


_ANSWERS = {
    HTTPStatus.OK: secret_shapes.Secret,
    HTTPStatus.CREATED: secret_shapes.Secret,
    HTTPStatus.ACCEPTED: secret_shapes.Secret,
}

ROUTES = (
    Route(
        method="PUT",
        path="/v1/secrets/{name}/trust-bundle",
        handler=put_bundle,
        summary="Put a trust bundle: the CAs whose certificates proxies believe; it is created if need be",
        scope=Scope.ISSUE,
        body=PutBundle,
        reads={PEM: lambda raw: {"cas": raw.decode(errors="replace")}},
        answers=_ANSWERS,
    ),
    Route(
        method="POST",
        path="/v1/secrets/{name}/trust-bundle/cas",
        handler=add_cas,
        summary="Trust more CAs beside those of a trust bundle: the first step of a root's rotation",
        scope=Scope.ISSUE,
        body=PostCas,
        reads={PEM: lambda raw: {"cas": raw.decode(errors="replace")}},
        answers=_ANSWERS,
    ),
    Route(
        method="DELETE",
        path="/v1/secrets/{name}/trust-bundle/cas/{fingerprint}",
        handler=remove_ca,
        summary="Trust a CA no more: the last step; refused while a proxy or a certificate needs it",
        scope=Scope.ISSUE,
        query=RemoveQuery,
        answers=_ANSWERS,
    ),
    Route(
        method="PUT",
        path="/v1/secrets/{name}/ticket-keys",
        handler=put_tickets,
        summary="Have session ticket keys made on a schedule, or bring them",
        scope=Scope.ISSUE,
        body=PutTickets,
        answers=_ANSWERS,
    ),
    Route(
        method="POST",
        path="/v1/secrets/{name}/ticket-keys/rotations",
        handler=rotate_tickets,
        summary="Have the next session ticket key made now",
        scope=Scope.ROTATE,
        answers={HTTPStatus.ACCEPTED: secret_shapes.Secret},
    ),
    Route(
        method="PUT",
        path="/v1/secrets/{name}/generic-secret",
        handler=put_generic,
        summary="Put a generic secret: bytes that a filter of Envoy's takes by name",
        scope=Scope.ISSUE,
        body=PutGeneric,
        answers=_ANSWERS,
    ),
)
