"""What several routes of the API say of what is no certificate: never what is secret of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from sds_server import model
from sds_server.admin.routes import Shape, Text
from sds_server.admin.shapes import Stated
from sds_server.inventory import payloads
from sds_server.inventory.ticket_schedules import Schedule
from sds_server.payloads import trust
from sds_server.payloads.content import Described


class Ca(BaseModel):
    """A CA of a trust bundle."""

    subject: str
    fingerprint: str
    not_after: datetime


class San(Shape):
    """A subject alternative name that certificates must have: one of all these."""

    type: trust.SanType
    match: trust.Match = trust.Match.EXACT
    value: Text


class Bundle(BaseModel):
    """A trust bundle as it is sent."""

    cas: list[Ca]
    pem: str
    crls: str
    sans: list[San]
    spki_pins: list[str]
    fingerprints: list[str]
    leaf_crl_only: bool
    max_depth: int | None

    @classmethod
    def of(cls, bundle: trust.TrustBundle) -> "Bundle":
        """Say it of a trust bundle."""
        return cls(
            cas=[
                Ca(
                    subject=ca.subject.rfc4514_string(),
                    fingerprint=trust.fingerprint_of(ca),
                    not_after=ca.not_valid_after_utc,
                )
                for ca in bundle.authorities
            ],
            pem="".join(bundle.cas),
            crls="".join(bundle.crls),
            sans=[San(type=san.type, match=san.match, value=san.value) for san in bundle.sans],
            spki_pins=list(bundle.spki_pins),
            fingerprints=list(bundle.fingerprints),
            leaf_crl_only=bundle.leaf_crl_only,
            max_depth=bundle.max_depth,
        )


class Tickets(BaseModel):
    """Session ticket keys: how many there are, and what makes the next one, if certvoy does."""

    keys: int
    rotate_every_s: float | None
    keep: int | None
    next_at: datetime | None


class Version(Stated):
    """One version, and what became of it: ``outcome`` null while it is rolled out.

    ``stage``: who is offered it, or was when it ended, ``canary``: a few first, or ``fleet``: all.
    """

    generation: int
    phase: model.Phase
    stage: model.Stage
    not_after: datetime | None
    created_at: datetime
    created_by: str
    completed_at: datetime | None
    outcome: str | None
    evidence: dict[str, Any] | None
    error: dict[str, Any] | None


class Payload(BaseModel):
    """What a secret holds that is no certificate; of a generic secret only the names of its values."""

    generation: int | None
    bundle: Bundle | None
    tickets: Tickets | None
    values: list[str] | None = Field(description="Names of a generic secret's values; none: it is one value.")
    versions: list[Version]

    @classmethod
    def of(
        cls,
        payload: payloads.Payload | None,
        described: Described | None,
        schedule: Schedule | None,
        history: Sequence[payloads.Payload],
    ) -> "Payload":
        """Say it of what is served, with the newest versions."""
        held = described or Described()
        tickets = None
        if held.keys is not None or schedule is not None:
            tickets = Tickets(
                keys=held.keys or 0,
                rotate_every_s=None if schedule is None else schedule.rotate_every.total_seconds(),
                keep=None if schedule is None else schedule.keep,
                next_at=None if schedule is None else schedule.next_at,
            )
        return cls(
            generation=None if payload is None else payload.generation,
            bundle=None if held.bundle is None else Bundle.of(held.bundle),
            tickets=tickets,
            values=None if held.parts is None else list(held.parts),
            versions=[Version.model_validate(version) for version in history],
        )
