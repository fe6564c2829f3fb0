"""Enrolment: a one-time token for a proxy, its first credential, and every next one."""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field

from sds_server import authority
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.config.values import Duration, NamePattern
from sds_server.errors import CallerError, ConfigError, Forbidden
from sds_server.identity import Grant, Grants
from sds_server.inventory.proxies import GrantedName
from sds_server.model import Kind, Scope

TTL_MAX = timedelta(days=30)
MAX_NAMES_MAX = 1_000_000
Csr = Annotated[str, Field(max_length=16_384, description="PKCS#10 in PEM; names in it are not looked at")]


class PostInvitation(Shape):
    """What the proxy may see besides what it sees already, and how long it has to enrol.

    ``kinds``, ``issue`` and ``max_names`` are the terms of these names, as in ``grants`` of ``certvoy.yaml``.
    """

    names: Annotated[tuple[NamePattern, ...], Field(max_length=1000)] = ()
    kinds: Annotated[tuple[Kind, ...] | None, Field(min_length=1, description="null: of every kind")] = None
    issue: Annotated[bool, Field(strict=True, description="whether its wish has it issued")] = False
    max_names: Annotated[int, Field(ge=1, le=MAX_NAMES_MAX)] | None = None
    ttl: Annotated[Duration, Field(json_schema_extra={"default": "1h"})] = timedelta(hours=1)


class PostEnrolment(Shape):
    """A one-time token, and the key that the credential is to be for."""

    token: Annotated[str, Field(max_length=200)]
    csr: Csr


class PostCredential(Shape):
    """The key that the next credential is to be for."""

    csr: Csr


class Invitation(BaseModel):
    """A token that enrols a proxy once; it is said here and nowhere else."""

    proxy: str
    identity: str
    token: str
    expires_at: datetime


class Credential(BaseModel):
    """A certificate, the CAs by which the control plane is known (PEM), and the port of its SDS."""

    identity: str
    certificate: str
    authorities: str
    not_after: datetime
    sds_port: int

    @classmethod
    def of(cls, call: Call, made: authority.Credential) -> "Credential":
        """Say it of a credential."""
        return cls(
            identity=made.identity,
            certificate=made.certificate_pem,
            authorities=made.authorities_pem,
            not_after=made.not_after,
            sds_port=call.services.sds_port(),
        )


class Authorities(BaseModel):
    """The control plane's own CAs, in PEM."""

    authorities: str


async def invite(call: Call) -> Answer:
    """Let a proxy enrol once."""
    wanted = call.body(PostInvitation)
    name = call.path["name"]
    if wanted.ttl > TTL_MAX:
        raise CallerError("ttl: more than 30 days", hint="a token that lies around is a key: write 1h")
    try:
        Grants([Grant("spiffe://any/proxy", tuple(wanted.names))])
    except ConfigError as e:
        raise CallerError(f"names: {e}", hint=e.next_step) from None
    if not wanted.names and (wanted.kinds or wanted.issue or wanted.max_names):
        raise CallerError("kinds, issue and max_names are terms of names", hint="write `names` as well")
    kinds = None if wanted.kinds is None else frozenset(wanted.kinds)
    granted = [GrantedName(one, kinds, wanted.issue, wanted.max_names) for one in dict.fromkeys(wanted.names)]
    proxy, token, ends = await call.services.enroller.invite(
        name, granted=granted, lasts=wanted.ttl, actor=call.caller.actor
    )
    made = Invitation(proxy=proxy.name, identity=proxy.identity, token=token, expires_at=ends)
    return Answer(made, status=HTTPStatus.CREATED)


async def enroll(call: Call) -> Answer:
    """Give the holder of a one-time token its first credential."""
    asked = call.body(PostEnrolment)
    made = await call.services.enroller.enroll(asked.token, asked.csr)
    return Answer(Credential.of(call, made), status=HTTPStatus.CREATED)


async def renew(call: Call) -> Answer:
    """Give the holder of a credential the next one."""
    held = call.holder
    if held.enrolment is None:
        raise Forbidden(
            f"{held.identity} did not enrol here", hint="whoever issued its certificate renews it"
        )
    made = await call.services.enroller.renew(held.identity, held.enrolment, call.body(PostCredential).csr)
    return Answer(Credential.of(call, made), status=HTTPStatus.CREATED)


async def authorities(call: Call) -> Answer:
    """Say by which CAs the control plane is known; who asks compares them with its token's digest."""
    found = await call.services.enroller.authorities()
    return Answer(Authorities(authorities=authority.pem([ca.certificate for ca in found])))


ROUTES = (
    Route(
        method="POST",
        path="/v1/proxies/{name}/enrolments",
        handler=invite,
        summary="Let a proxy enrol once; the token is said once",
        scope=Scope.ENROLL,
        body=PostInvitation,
        answers={HTTPStatus.CREATED: Invitation},
    ),
    Route(
        method="POST",
        path="/v1/enrolments",
        handler=enroll,
        summary="Enrol by a one-time token; no other name is asked for",
        scope=None,
        body=PostEnrolment,
        answers={HTTPStatus.CREATED: Credential},
    ),
    Route(
        method="POST",
        path="/v1/credentials",
        handler=renew,
        summary="Renew the credential that the request is made with",
        scope=None,
        peer=True,
        body=PostCredential,
        answers={HTTPStatus.CREATED: Credential},
    ),
    Route(
        method="GET",
        path="/v1/authorities",
        handler=authorities,
        summary="The control plane's own CAs",
        scope=None,
        answers={HTTPStatus.OK: Authorities},
    ),
)
