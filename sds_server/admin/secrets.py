"""``/v1/secrets``: what is wanted, declared; and, of one, all that hangs on it."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from aiohttp import hdrs
from pydantic import Field, TypeAdapter, ValidationError

from acme_engine.names import MAX_NAMES
from sds_server import conditions, model
from sds_server.admin import pages, payload_shapes, problem, secret_shapes, shapes, target_shapes
from sds_server.admin.routes import Answer, Call, Route, Shape, Text, etag
from sds_server.admin.services import Services
from sds_server.conditions import DeliveryState
from sds_server.config.values import KeyFile, NameOfSecret, Names, ProofPolicy, unprovable
from sds_server.errors import BadName, CallerError, Conflict
from sds_server.inventory import (
    certificates,
    declarations,
    fallback_looks,
    freezes,
    key_requests,
    on_demand,
    payloads,
    progress,
    renewal_infos,
    revocations,
    secrets,
    staples,
    targets,
    ticket_schedules,
)
from sds_server.model import KeyHolder, KeyType, Kind, Proof, Scope

FALLBACK_MAX = 8
"""More CAs than anybody has accounts at."""

_NAME: TypeAdapter[model.SecretName] = TypeAdapter(NameOfSecret)


class PutSecret(Shape):
    """A secret as it shall be: DNS names in A-labels, the primary first.

    ``proof``: what completes its rotations, ``all`` of the live set proved, a share of it such as ``90%``, or
    ``accepted`` where nobody can look what is served. ``key_holder``: who makes its private keys, certvoy, or
    the one target that serves it and brings signing requests. ``key_file``: where an Envoy that is this
    target finds each key on its disk, ``/var/lib/certvoy-keys/www/{spki}.pem``.
    ``fallback``: issuers that are asked where the first does not deliver, in this order.
    """

    domains: Annotated[Names, Field(max_length=MAX_NAMES)]
    issuer: Text
    key_type: KeyType = KeyType.ECDSA_P256
    proof: ProofPolicy = Proof()
    key_holder: KeyHolder = KeyHolder.CERTVOY
    key_file: KeyFile | None = None
    fallback: Annotated[tuple[Text, ...], Field(max_length=FALLBACK_MAX)] = ()


class SecretsQuery(pages.Page):
    """Which secrets."""

    issuer: Text | None = None
    domain: Text | None = None


async def list_secrets(call: Call) -> Answer:
    """Return a page, by name."""
    query = call.query(SecretsQuery)
    (after,) = pages.after(query.cursor, "")
    found = await secrets.page(
        call.services.database,
        after=str(after),
        limit=query.limit,
        issuer=query.issuer,
        domain=query.domain,
    )
    return Answer(
        secret_shapes.Secrets(
            items=[secret_shapes.SecretSummary.listed(listed) for listed in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.secret.name]),
        )
    )


async def get_secret(call: Call) -> Answer:
    """Return one with its certificate or payload, its latest rotation, its targets and what they mean."""
    return await described(call.services, call.path["name"])


async def put_secret(call: Call) -> Answer:
    """Declare it: created, changed, or as it is already."""
    wanted, name = call.body(PutSecret), named(call.path["name"])
    refuse_declared(call, name)
    if wanted.issuer not in call.services.issuers:
        if wanted.issuer == model.UPLOAD:
            hint = f"upload a pair: PUT /v1/secrets/{name}/certificate, `certvoy upload`"
            raise BadName("issuer: a secret whose pairs are uploaded begins with its first pair", hint=hint)
        declared = ", ".join(sorted(call.services.issuers))
        raise BadName(f"issuer: there is no {wanted.issuer}", hint=f"the configuration declares: {declared}")
    if wanted.key_file is not None and wanted.key_holder is not KeyHolder.TARGET:
        hint = "send key_holder target as well, or no key_file"
        raise CallerError("key_file: certvoy makes the keys, and sends them to the proxy", hint=hint)
    _check_issuers(call, wanted)
    status = HTTPStatus.OK

    def check(before: model.Secret | None) -> None:
        nonlocal status
        call.check_unchanged(None if before is None else _etag(before))
        status = HTTPStatus.CREATED if before is None else HTTPStatus.OK

    await declarations.put(
        call.services.database,
        model.Secret(
            name=name,
            kind=Kind.TLS_CERTIFICATE,
            domains=wanted.domains,
            issuer=wanted.issuer,
            key_type=wanted.key_type,
            proof=wanted.proof,
            key_holder=wanted.key_holder,
            key_file=wanted.key_file,
            fallback=wanted.fallback,
        ),
        actor=call.caller.actor,
        check=check,
    )
    return await described(call.services, name, status=status)


def _check_issuers(call: Call, wanted: PutSecret) -> None:
    """Refuse issuers that cannot prove its names, and fallbacks that are none."""
    for issuer in wanted.fallback:
        if issuer not in call.services.issuers:
            declared = ", ".join(sorted(call.services.issuers))
            raise BadName(f"fallback: there is no {issuer}", hint=f"the configuration declares: {declared}")
    if len({wanted.issuer, *wanted.fallback}) <= len(wanted.fallback):
        raise BadName("fallback: names an issuer twice", hint="name each once, and not the first one")
    for issuer in (wanted.issuer, *wanted.fallback):
        wrong = None if issuer in call.services.over_dns else unprovable(wanted.domains, issuer)
        if wrong is not None:
            raise BadName(f"domains: {wrong}", hint=wrong.hint)
        refused = call.services.refuses(issuer, wanted.domains)
        if refused is not None:
            raise BadName(f"domains: {refused.said}", hint=refused.hint)


async def delete_secret(call: Call) -> Answer:
    """Take it out of the inventory; proxies go on with what they have."""
    name = call.path["name"]
    refuse_declared(call, name)

    def check(before: model.Secret | None) -> None:
        call.check_unchanged(None if before is None else _etag(before))

    await declarations.remove(call.services.database, name, actor=call.caller.actor, check=check)
    return Answer(status=HTTPStatus.NO_CONTENT)


async def described(services: Services, name: str, *, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return all that hangs on a secret."""
    database = services.database
    secret = await secrets.get(database, name)
    frozen = await freezes.of(database, name)
    deliveries = [
        target_shapes.Delivery.of(live, secret=name) for live in await targets.live_set(database, name)
    ]
    asked = await on_demand.asked(database, name)
    by_api = "api" if asked is None else "on_demand"
    whole = {
        **secret_shapes.Declaration.of(secret).model_dump(),
        "managed_by": "config" if name in services.declared else by_api,
        "on_demand": secret_shapes.OnDemand.maybe(asked, services.rules),
        "created_at": await secrets.created_at(database, name),
        "frozen": secret_shapes.Freeze.maybe(frozen),
        "sealed": _sealed(services),
        "deliveries": deliveries,
    }
    states = [delivery.state for delivery in deliveries]
    if secret.kind is Kind.TLS_CERTIFICATE:
        body = await _with_certificate(services, secret, whole, states, frozen)
    else:
        body = await _with_payload(services, secret, whole, states, frozen)
    return Answer(body, status=status, headers={hdrs.ETAG: _etag(secret)})


async def _with_certificate(
    services: Services,
    secret: model.Secret,
    whole: dict[str, Any],
    states: Sequence[DeliveryState],
    frozen: model.Freeze | None,
) -> secret_shapes.Secret:
    database, name = services.database, secret.name
    served = (await certificates.served(database, [name])).get(name)
    cert_id = None if served is None else served.cert_id
    pairs = [] if cert_id is None else await certificates.pairs(database, [cert_id])
    certificate = pairs[0].certificate if pairs else None
    stapling = None if cert_id is None else await staples.of(database, cert_id)
    rotation = await progress.latest(database, name)
    revoked = await revocations.of_secret(database, name)
    forbidden = await fallback_looks.of(database, name) if secret.fallback else ()
    by_target = secret.key_holder is KeyHolder.TARGET
    custody = await key_requests.custody(database, name) if by_target else None
    what_it_means = conditions.of_secret(
        certificate=certificate,
        rotation=rotation,
        deliveries=states,
        now=services.clock.now(),
        revocations=revoked,
        uploaded=secret.issuer == model.UPLOAD,
        frozen=frozen,
        custody=custody,
        by_target=by_target,
    )
    return secret_shapes.Secret(
        **whole,
        key_custody=secret_shapes.KeyCustody.of(custody) if by_target else None,
        certificate=None if certificate is None else shapes.Certificate.model_validate(certificate),
        renewal=None if certificate is None else await _renewal(services, certificate),
        staple=None if stapling is None else secret_shapes.Staple.model_validate(stapling),
        clock=_clock(services, secret),
        forbidden=[secret_shapes.Forbidden.model_validate(one) for one in forbidden],
        payload=None,
        rotation=shapes.Rotation.of(rotation),
        revocations=[shapes.Revocation.of(revocation) for revocation in revoked],
        conditions=[secret_shapes.Condition.model_validate(condition) for condition in what_it_means],
    )


def _sealed(services: Services) -> str | None:
    state = services.seal.state
    if state is None:
        return None
    return f"by {state.by or 'somebody'} at {state.at or 'some time'}: {state.reason or '?'}"


def _clock(services: Services, secret: model.Secret) -> str | None:
    said = (services.clock_said(issuer) for issuer in (secret.issuer, *secret.fallback))
    return next((words for words in said if words is not None), None)


async def _renewal(services: Services, certificate: model.Certificate) -> secret_shapes.Renewal:
    return secret_shapes.Renewal.of(await renewal_infos.known(services.database, certificate.id), certificate)


async def _with_payload(
    services: Services,
    secret: model.Secret,
    whole: dict[str, Any],
    states: Sequence[DeliveryState],
    frozen: model.Freeze | None,
) -> secret_shapes.Secret:
    payload = await payloads.served(services.database, secret.name)
    history = await payloads.history(services.database, secret.name)
    newest = history[0] if history else None
    what_it_means = conditions.of_payload(
        generation=None if payload is None else payload.generation,
        not_after=None if payload is None else payload.not_after,
        rolling_out=payload is not None and payload.completed_at is None,
        error=None if newest is None or newest.error is None else newest.error["what"],
        deliveries=states,
        now=services.clock.now(),
        frozen=frozen,
    )
    return secret_shapes.Secret(
        **whole,
        key_custody=None,
        certificate=None,
        renewal=None,
        staple=None,
        clock=None,
        forbidden=[],
        payload=payload_shapes.Payload.of(
            payload,
            await services.payloads.described(secret.name),
            await ticket_schedules.get(services.database, secret.name),
            history,
        ),
        rotation=None,
        revocations=[],
        conditions=[secret_shapes.Condition.model_validate(condition) for condition in what_it_means],
    )


def _etag(secret: model.Secret) -> str:
    """Return the validator of what is declared, the only part that a caller can change."""
    return etag(secret_shapes.Declaration.of(secret))


def named(text: str) -> model.SecretName:
    """Return the name, if a secret can have it.

    Raises:
        BadName: it cannot.
    """
    try:
        return _NAME.validate_python(text)
    except ValidationError as e:
        raise BadName(f"name: {problem.invalid(e).detail}", hint="take another name") from None


def refuse_declared(call: Call, name: str) -> None:
    """Leave to the configuration what it declares.

    Raises:
        Conflict: it declares a Secret of that name.
    """
    if name in call.services.declared:
        raise Conflict(
            f"secret {name}: the configuration file declares it, and would undo this at the next start",
            hint="change it in the configuration file, under `secrets:`, and restart",
        )


ROUTES = (
    Route(
        method="GET",
        path="/v1/secrets",
        handler=list_secrets,
        summary="List secrets, by name",
        scope=Scope.READ,
        query=SecretsQuery,
        answers={HTTPStatus.OK: secret_shapes.Secrets},
    ),
    Route(
        method="GET",
        path="/v1/secrets/{name}",
        handler=get_secret,
        summary="Get a secret: what is served, its latest rotation, its targets",
        scope=Scope.READ,
        answers={HTTPStatus.OK: secret_shapes.Secret},
    ),
    Route(
        method="PUT",
        path="/v1/secrets/{name}",
        handler=put_secret,
        summary="Declare a secret; a new one, or one with other names, CA or key type, is issued at once",
        scope=Scope.ISSUE,
        body=PutSecret,
        answers={HTTPStatus.OK: secret_shapes.Secret, HTTPStatus.CREATED: secret_shapes.Secret},
    ),
    Route(
        method="DELETE",
        path="/v1/secrets/{name}",
        handler=delete_secret,
        summary="Delete a secret; proxies go on with what they have",
        scope=Scope.ADMIN,
        answers={HTTPStatus.NO_CONTENT: None},
    ),
)
