"""``/v1/certificates``: the inventory of what was issued, and what became of it."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field

from sds_server.admin import pages, shapes
from sds_server.admin.routes import Answer, Call, Route, Text
from sds_server.errors import CallerError, NotFound
from sds_server.inventory import certificates, revocations
from sds_server.model import CertificateId, CertificateStatus, Issuance, Scope

FIRST = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
PEM = "application/pem-certificate-chain"  # RFC 8555 section 9.1


class CertificatesQuery(pages.Page):
    """Which certificates."""

    secret: Text | None = None
    status: CertificateStatus | None = None
    issuer: Text | None = None
    domain: Text | None = None
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    expires_before: AwareDatetime | None = None


async def list_certificates(call: Call) -> Answer:
    """Return a page, nearest end first."""
    query = call.query(CertificatesQuery)
    found = await certificates.page(
        call.services.database,
        after=_after(query.cursor),
        limit=query.limit,
        secret=query.secret,
        status=query.status,
        issuer=query.issuer,
        domain=query.domain,
        fingerprint=query.fingerprint,
        ends_before=query.expires_before,
    )
    revoked = await revocations.of_certificates(
        call.services.database, [issuance.certificate.id for issuance in found]
    )
    return Answer(
        shapes.Issuances(
            items=[shapes.Issuance.of(issuance, revoked.get(issuance.certificate.id)) for issuance in found],
            next_cursor=pages.cursor(found, query.limit, _keys),
        )
    )


async def get_certificate(call: Call) -> Answer:
    """Return one, whatever became of it."""
    issuance = await _get(call)
    cert_id = issuance.certificate.id
    revoked = await revocations.of_certificates(call.services.database, [cert_id])
    return Answer(shapes.Issuance.of(issuance, revoked.get(cert_id)))


async def get_chain(call: Call) -> Answer:
    """Return the chain of one, leaf first, without the root."""
    return Answer((await _get(call)).certificate.chain_pem, content_type=PEM)


async def _get(call: Call) -> Issuance:
    text = call.path["id"]
    try:
        cert_id = CertificateId(UUID(text))
    except ValueError:
        raise NotFound(
            f"certificate {text[:40]}: there is none of that id", hint="GET /v1/certificates lists them"
        ) from None
    return await certificates.get(call.services.database, cert_id)


def _keys(issuance: Issuance) -> list[pages.Key]:
    return [issuance.certificate.not_after.isoformat(), str(issuance.certificate.id)]


def _after(cursor: str | None) -> tuple[datetime, UUID]:
    if cursor is None:
        return FIRST
    ends, cert_id = pages.after(cursor, "", "")
    try:
        at = datetime.fromisoformat(str(ends))
        return at.astimezone(UTC), UUID(str(cert_id))
    except (ValueError, OverflowError):
        hint = "take next_cursor of the page before"
        raise CallerError("cursor: it is not one of this list", hint=hint) from None


ROUTES = (
    Route(
        method="GET",
        path="/v1/certificates",
        handler=list_certificates,
        summary="List certificates, nearest end first",
        scope=Scope.READ,
        query=CertificatesQuery,
        answers={HTTPStatus.OK: shapes.Issuances},
    ),
    Route(
        method="GET",
        path="/v1/certificates/{id}",
        handler=get_certificate,
        summary="Get a certificate, whatever became of it",
        scope=Scope.READ,
        answers={HTTPStatus.OK: shapes.Issuance},
    ),
    Route(
        method="GET",
        path="/v1/certificates/{id}/chain",
        handler=get_chain,
        summary="Get the chain of a certificate as PEM, leaf first",
        scope=Scope.READ,
        answers={HTTPStatus.OK: bytes},
        content_type=PEM,
    ),
)
