"""What several routes of the API say of Secrets."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from sds_server import conditions, model
from sds_server.admin import payload_shapes, shapes, target_shapes
from sds_server.inventory.on_demand import Asked
from sds_server.inventory.renewal_infos import Known
from sds_server.inventory.secrets import Listed


class Condition(shapes.Stated):
    """One thing that is so, or not, and why."""

    type: str
    status: bool
    reason: str
    message: str


class Declaration(BaseModel):
    """A secret as declared."""

    name: str
    kind: model.Kind
    domains: list[str]
    issuer: str | None
    key_type: model.KeyType | None
    proof: str
    key_holder: model.KeyHolder
    key_file: str | None
    fallback: list[str]

    @classmethod
    def of(cls, secret: model.Secret) -> "Declaration":
        """Say it of a Secret."""
        return cls(
            name=secret.name,
            kind=secret.kind,
            domains=list(secret.domains),
            issuer=secret.issuer or None,
            key_type=secret.key_type,
            proof=str(secret.proof),
            key_holder=secret.key_holder,
            key_file=secret.key_file,
            fallback=list(secret.fallback),
        )


class Freeze(shapes.Stated):
    """How a secret is held as it is: nothing is issued, offered to more targets, or taken back."""

    at: datetime
    by: str
    reason: str

    @classmethod
    def maybe(cls, frozen: model.Freeze | None) -> "Freeze | None":
        """Say it of a Secret that is held, and nothing of one that is not."""
        return None if frozen is None else cls.model_validate(frozen)


class KeyCustody(BaseModel):
    """Which target makes and keeps a secret's private keys, and when its last signing request came.

    ``waits``: it lies ready for the next order. Without ``target`` no target has brought one yet.
    """

    target: str | None
    identity: str | None
    brought_at: datetime | None
    waits: bool
    message: str

    @classmethod
    def of(cls, custody: model.KeyCustody | None) -> "KeyCustody":
        """Say it, also where none has brought one."""
        return cls(
            target=None if custody is None else custody.peer.node_id,
            identity=None if custody is None else custody.peer.identity,
            brought_at=None if custody is None else custody.brought_at,
            waits=custody is not None and custody.waits,
            message=conditions.custody_said(custody),
        )


class Renewal(BaseModel):
    """What a CA wishes of a certificate's renewal (RFC 9773), and what was drawn in its window, once.

    ``message`` says when and why the renewal is. ``ask_at``: when the CA is asked next; null: no more.
    """

    message: str
    window_start: datetime | None
    window_end: datetime | None
    pick_at: datetime | None
    explanation_url: str | None
    answered_at: datetime | None
    ask_at: datetime | None
    error: str | None

    @classmethod
    def of(cls, known: Known | None, certificate: model.Certificate) -> "Renewal":
        """Say it, also of a CA that says nothing."""
        window = None if known is None else known.window
        return cls(
            message=conditions.renewal_said(certificate.renew_reason),
            window_start=None if window is None else window.start,
            window_end=None if window is None else window.end,
            pick_at=None if known is None else known.pick_at,
            explanation_url=None if known is None else known.explanation_url,
            answered_at=None if known is None else known.answered_at,
            ask_at=None if known is None else known.ask_at,
            error=None if known is None else known.error,
        )


class Staple(shapes.Stated):
    """The OCSP staple of a certificate: which responder is asked for it, until when it lasts, when next.

    ``must``: clients refuse the certificate without. ``error``: why the last answer was none.
    """

    url: str
    must: bool
    next_update: datetime | None
    next_at: datetime
    error: dict[str, Any] | None


class OnDemand(BaseModel):
    """How a secret came of a handshake: by which rule, and the identity of the first proxy that asked.

    ``wanted_at``: when a proxy was last known to subscribe, looked at twice a day; ``keep`` seconds after
    that it is removed. ``governed``: this replica's configuration has the rule.
    """

    rule: str
    identity: str
    wanted_at: datetime
    keep: float
    governed: bool

    @classmethod
    def maybe(cls, asked: Asked | None, rules: Collection[str]) -> "OnDemand | None":
        """Say it of a Secret that was asked for, and nothing of another."""
        if asked is None:
            return None
        return cls(
            rule=asked.rule,
            identity=asked.identity,
            wanted_at=asked.wanted_at,
            keep=asked.keep.total_seconds(),
            governed=asked.rule in rules,
        )


class Forbidden(shapes.Stated):
    """That CAA does not let a CA issue that is fallen back on, as seen at the last look, and what would."""

    issuer: str
    name: str
    seen: str
    fix: str


class SecretSummary(Declaration):
    """A secret with what it is served with, and at how many targets of its live set that is proved.

    ``on_demand``: the rule by which it came of a handshake.
    """

    status: model.CertificateStatus | None
    generation: int | None
    not_after: datetime | None
    renew_at: datetime | None
    targets: int
    proved: int
    accepted: int
    last_error: dict[str, Any] | None
    frozen: Freeze | None
    on_demand: str | None

    @classmethod
    def listed(cls, listed: Listed) -> "SecretSummary":
        """Say it of a Secret of a list."""
        return cls(
            **Declaration.of(listed.secret).model_dump(),
            status=listed.status,
            generation=listed.generation,
            not_after=listed.not_after,
            renew_at=listed.renew_at,
            targets=listed.targets,
            proved=listed.proved,
            accepted=listed.accepted,
            last_error=listed.last_error,
            frozen=Freeze.maybe(listed.frozen),
            on_demand=listed.on_demand,
        )


class Secret(Declaration):
    """A secret with all that hangs on it: what is served, the latest rotation, who serves it.

    ``key_custody`` is there where a target makes its keys, ``staple`` where the certificate names a
    responder, ``clock`` where that of the replica that answers is more than a minute from its CA's;
    ``sealed``: by whom, when and why that replica was sealed, as it gives nothing away then; ``forbidden``:
    of its fallback issuers, whom CAA keeps out.
    """

    managed_by: str
    on_demand: OnDemand | None
    key_custody: KeyCustody | None
    created_at: datetime
    frozen: Freeze | None
    sealed: str | None
    certificate: shapes.Certificate | None
    renewal: Renewal | None
    staple: Staple | None
    clock: str | None
    forbidden: list[Forbidden]
    payload: payload_shapes.Payload | None
    rotation: shapes.Rotation | None
    revocations: list[shapes.Revocation]
    deliveries: list[target_shapes.Delivery]
    conditions: list[Condition]


class Secrets(BaseModel):
    """A page of secrets."""

    items: list[SecretSummary]
    next_cursor: str | None
