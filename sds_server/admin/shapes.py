"""What several routes of the API say: certificates and rotations as JSON.

Secrets are in `secret_shapes`, Targets in `target_shapes`. Times are RFC 3339 in UTC, serial numbers
lower-case hex, fingerprints lower-case hex SHA-256.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from sds_server import conditions, model


class Stated(BaseModel):
    """What is said of a noun: read from its value's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Certificate(Stated):
    """One immutable issuance, as it is served."""

    id: UUID
    secret: str
    generation: int
    status: model.CertificateStatus
    domains: list[str]
    issuer: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    renew_at: datetime | None
    renew_reason: str | None
    fingerprint: str
    key_ref: str


class Revocation(BaseModel):
    """A certificate that somebody wants revoked; ``now``: also while it is served."""

    cert_id: UUID
    generation: int
    reason: model.RevocationReason
    now: bool
    state: conditions.RevocationState
    message: str
    wanted_at: datetime
    attempts: int
    next_attempt_at: datetime
    done_at: datetime | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, revocation: model.Revocation) -> "Revocation":
        """Say it of a Revocation."""
        state, message = conditions.revocation_state(revocation)
        return cls(
            cert_id=revocation.cert_id,
            generation=revocation.generation,
            reason=revocation.reason,
            now=revocation.at_once,
            state=state,
            message=message,
            wanted_at=revocation.wanted_at,
            attempts=revocation.attempts,
            next_attempt_at=revocation.next_attempt_at,
            done_at=revocation.done_at,
            error=revocation.error,
        )


class Issuance(Certificate):
    """One immutable issuance with what became of it."""

    issued_at: datetime
    replaced_at: datetime | None
    revoked_at: datetime | None
    revocation: Revocation | None

    @classmethod
    def of(cls, issuance: model.Issuance, revocation: model.Revocation | None) -> "Issuance":
        """Say it of a Certificate of the inventory."""
        return cls(
            **Certificate.model_validate(issuance.certificate).model_dump(),
            issued_at=issuance.issued_at,
            replaced_at=issuance.replaced_at,
            revoked_at=issuance.revoked_at,
            revocation=None if revocation is None else Revocation.of(revocation),
        )


class Issuances(BaseModel):
    """A page of certificates, nearest end first."""

    items: list[Issuance]
    next_cursor: str | None


class Rotation(Stated):
    """A piece of work: to give a secret its next certificate.

    ``next_attempt_at`` null: it is held until a person acts and calls for it. ``stage``: who is offered that,
    the ``canaries`` or the whole fleet. ``evidence``: what its completion rests on.
    """

    id: int
    secret: str
    reason: model.Reason
    state: conditions.RotationState
    cert_id: UUID | None
    new_cert_id: UUID | None
    attempts: int
    triggered_at: datetime
    completed_at: datetime | None
    next_attempt_at: datetime | None
    last_error: dict[str, Any] | None
    stage: model.Stage
    canaries: list[str]
    evidence: dict[str, Any] | None

    @classmethod
    def of(cls, rotation: model.Rotation) -> "Rotation":
        """Say it of a Rotation."""
        return cls(
            id=rotation.id,
            secret=rotation.secret,
            reason=rotation.reason,
            state=conditions.rotation_state(rotation),
            cert_id=rotation.cert_id,
            new_cert_id=rotation.new_cert_id,
            attempts=rotation.attempts,
            triggered_at=rotation.triggered_at,
            completed_at=rotation.completed_at,
            next_attempt_at=rotation.next_attempt_at,
            last_error=rotation.last_error,
            stage=rotation.stage,
            canaries=list(rotation.canaries),
            evidence=rotation.evidence,
        )


class Step(Stated):
    """One thing that happened to a rotation; ``name`` is the audit's action."""

    name: str
    at: datetime
    actor: str
    detail: dict[str, Any]


class Reached(Stated):
    """How many targets of the live set have got how far with a rotation's new certificate."""

    targets: int
    sent: int
    accepted: int
    refused: int
    proved: int


class RotationInSteps(Rotation):
    """A rotation with its steps, oldest first."""

    steps: list[Step]
    reached: Reached


class Rotations(BaseModel):
    """A page of rotations, newest first."""

    items: list[Rotation]
    next_cursor: str | None
