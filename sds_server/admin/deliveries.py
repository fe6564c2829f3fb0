"""``/v1/secrets/{name}/deliveries``: what an agent says of the pair that it was given."""

from http import HTTPStatus
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from sds_server.admin import target_shapes
from sds_server.admin.bundles import AgentKind, check_grant
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.admin.targets import NodeId
from sds_server.errors import CallerError
from sds_server.inventory import reports
from sds_server.inventory.reports import Report, Said
from sds_server.model import Identity, Scope, TargetKind
from sds_server.xds.scrub import scrub
from sds_server.xds.service import PeerNode

DETAIL_MAX: Final = 16 * 1024
"""Taken; what is kept is shorter."""

GENERATION_MAX: Final = 2**31 - 1


def _hex(value: object) -> object:
    """Take a fingerprint as ``openssl x509 -fingerprint`` writes it, too."""
    return value.replace(":", "").lower() if isinstance(value, str) else value


Fingerprint = Annotated[
    str,
    BeforeValidator(_hex),
    Field(min_length=64, max_length=64, pattern="^[0-9a-f]+$", description="SHA-256 of the leaf's DER"),
]


class PostDelivery(Shape):
    """What became of a pair at a target.

    It is about what is current, named by ``generation`` or a fingerprint; of another one nothing is taken.
    ``served_fingerprint`` is what the agent's own handshake showed, without which nothing is proved.
    ``address``: where it looked; kept as evidence. ``detail``: why it was refused.
    """

    state: Said
    target: NodeId | None = None
    kind: AgentKind = TargetKind.FILES
    generation: Annotated[int, Field(ge=1, le=GENERATION_MAX)] | None = None
    fingerprint: Fingerprint | None = None
    served_fingerprint: Fingerprint | None = None
    address: Annotated[str, Field(max_length=300, pattern=r"^[\x20-\x7e]*$")] | None = None
    detail: Annotated[str, Field(max_length=DETAIL_MAX)] = ""

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.state is Said.PROVED and self.served_fingerprint is None:
            raise ValueError("proved needs served_fingerprint: the leaf that a handshake showed")
        if self.state is Said.REFUSED and not self.detail.strip():
            raise ValueError("refused needs a detail: why")
        if self.generation is None and self.fingerprint is None and self.served_fingerprint is None:
            raise ValueError("say of which pair: by generation or fingerprint")
        return self


async def post_delivery(call: Call) -> Answer:
    """Take a report, and say what is known of the target now."""
    services, name, body = call.services, call.path["name"], call.body(PostDelivery)
    report = Report(
        secret=name,
        target=_target(call, body),
        identity=_reporter(call, body),
        kind=body.kind,
        said=body.state,
        generation=body.generation,
        fingerprints=[said for said in (body.fingerprint, body.served_fingerprint) if said is not None],
        # One line: a program's reason may stand on any of the lines that it wrote.
        refusal=scrub(" ".join(body.detail.split())) if body.state is Said.REFUSED else None,
        address=body.address,
    )
    live = await reports.write(services.database, report, seen_for=services.seen_for, actor=call.caller.actor)
    services.on_said(name)
    return Answer(target_shapes.Delivery.of(live, secret=name))


def _reporter(call: Call, body: PostDelivery) -> Identity | None:
    """Return whose target it is: the caller's own by its grant, else, with the scope, any that is there."""
    if call.caller.is_peer and (
        call.services.authorize(call.identity, call.path["name"]) or not call.caller.may(Scope.DELIVER)
    ):
        check_grant(call.services, PeerNode(call.identity, body.target or call.identity), call.path["name"])
        return call.identity
    return None


def _target(call: Call, body: PostDelivery) -> str:
    if body.target is not None:
        return body.target
    if not call.caller.is_peer:
        raise CallerError("target: say which: a token has none of its own", hint="`certvoy targets ls`")
    return call.identity


ROUTES = (
    Route(
        method="POST",
        path="/v1/secrets/{name}/deliveries",
        handler=post_delivery,
        summary="Report what became of a pair at a target; by the client certificate that has the grant, "
        "or for any target with the scope",
        scope=Scope.DELIVER,
        peer=True,
        body=PostDelivery,
        answers={HTTPStatus.OK: target_shapes.Delivery},
    ),
)
