"""What several routes of the API say of Targets, and of Secrets there."""

from datetime import datetime

from pydantic import BaseModel

from sds_server import conditions, model
from sds_server.inventory.targets import Listed, Live


class Delivery(BaseModel):
    """A secret at a target: the generations sent, accepted, refused, proved, and what that means."""

    target: str
    kind: model.TargetKind
    identity: str | None
    node_id: str | None
    secret: str
    state: conditions.DeliveryState
    reason: str | None
    current: int | None
    sent: int | None
    accepted: int | None
    refused: int | None
    proved: int | None
    probe: str | None
    registered: bool
    updated_at: datetime

    @classmethod
    def of(cls, live: Live, *, secret: str, current: int | None) -> "Delivery":
        """Say it of a Target of the live set; ``current`` is the generation that it should serve."""
        state, reason = conditions.delivery_state(
            current=current,
            sent=live.sent,
            accepted=live.accepted,
            refused=live.refused,
            proved=live.proved,
            refusal=live.refusal,
            probe_error=live.probe_error,
        )
        return cls(
            target=live.target.name,
            kind=live.target.kind,
            identity=live.target.identity,
            node_id=live.target.node_id,
            secret=secret,
            state=state,
            reason=reason,
            current=current,
            sent=live.sent,
            accepted=live.accepted,
            refused=live.refused,
            proved=live.proved,
            probe=live.target.probe,
            registered=live.target.registered,
            updated_at=live.updated_at,
        )


class Target(BaseModel):
    """Whatever serves secrets: registered, or seen."""

    name: str
    kind: model.TargetKind
    identity: str | None
    node_id: str | None
    probe: str | None
    registered: bool
    last_seen: datetime | None
    deliveries: list[Delivery]

    @classmethod
    def of(cls, listed: Listed) -> "Target":
        """Say it of a Target with what it has."""
        target = listed.target
        return cls(
            name=target.name,
            kind=target.kind,
            identity=target.identity,
            node_id=target.node_id,
            probe=target.probe,
            registered=target.registered,
            last_seen=listed.last_seen,
            deliveries=[
                Delivery.of(held.delivery, secret=held.secret, current=held.current)
                for held in listed.holds
                if held.live
            ],
        )


class Targets(BaseModel):
    """A page of targets, by name."""

    items: list[Target]
    next_cursor: str | None
