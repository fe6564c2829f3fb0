"""Every route of the API."""

import importlib.metadata
import json
from functools import cache
from http import HTTPStatus
from typing import Final

from sds_server.admin import (
    audit,
    audit_proofs,
    bundles,
    certificates,
    deliveries,
    enrolments,
    freezes,
    health,
    issuers,
    keks,
    key_requests,
    mass_revocations,
    metrics,
    openapi,
    payloads,
    preflights,
    probes,
    proxies,
    revocations,
    rotations,
    seals,
    secrets,
    target_tests,
    targets,
    tokens,
    traefik,
    uploads,
)
from sds_server.admin.routes import Answer, Call, Route


async def get_openapi(call: Call) -> Answer:  # noqa: ARG001 - a handler's signature
    """Return this API's description."""
    return Answer(openapi_json())


ROUTES: Final[tuple[Route, ...]] = (
    *secrets.ROUTES,
    *uploads.ROUTES,
    *payloads.ROUTES,
    *rotations.ROUTES,
    *freezes.ROUTES,
    *seals.ROUTES,
    *revocations.ROUTES,
    *certificates.ROUTES,
    *bundles.ROUTES,
    *key_requests.ROUTES,
    *traefik.ROUTES,
    *deliveries.ROUTES,
    *targets.ROUTES,
    *target_tests.ROUTES,
    *probes.ROUTES,
    *preflights.ROUTES,
    *proxies.ROUTES,
    *enrolments.ROUTES,
    *issuers.ROUTES,
    *mass_revocations.ROUTES,
    *keks.ROUTES,
    *audit.ROUTES,
    *audit_proofs.ROUTES,
    *tokens.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    Route(
        method="GET",
        path="/openapi.json",
        handler=get_openapi,
        summary="This API's description (OpenAPI 3.1)",
        scope=None,
        answers={HTTPStatus.OK: bytes},
    ),
)


@cache
def openapi_json() -> bytes:
    """Return the OpenAPI document, as it is committed in ``docs/reference/openapi.json``."""
    document = openapi.document(ROUTES, version=importlib.metadata.version("certvoy"))
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
