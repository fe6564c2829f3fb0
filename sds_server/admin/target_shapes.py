"""What several routes of the API say of Targets, and of Secrets there."""

from datetime import datetime

from pydantic import BaseModel

from sds_server import conditions, model
from sds_server.inventory.targets import Listed, Live


class Delivery(BaseModel):
    """A secret at a target: the generations sent, accepted, refused, proved, and what that means.

    ``current`` is the generation that it should serve: while canaries have a new one, for all others that
    before. ``served``: the leaf that was seen in place of it; ``stale_since``: when a target that was proved
    began to serve another one. ``instances``: so many streams are open under its node id; more than one where
    proxies call themselves alike, and all of them must accept.
    """

    target: str
    kind: model.TargetKind
    identity: str | None
    node_id: str | None
    secret: str
    secret_kind: model.Kind
    state: conditions.DeliveryState
    reason: str | None
    current: int | None
    sent: int | None
    accepted: int | None
    refused: int | None
    proved: int | None
    proved_by: model.ProvedBy | None
    proved_at: datetime | None
    served: str | None
    stale_since: datetime | None
    instances: int
    probe: str | None
    registered: bool
    updated_at: datetime

    @classmethod
    def of(cls, live: Live, *, secret: str) -> "Delivery":
        """Say it of a Target of the live set."""
        state, reason = conditions.delivery_state(
            current=live.current,
            sent=live.sent,
            accepted=live.accepted,
            refused=live.refused,
            proved=live.proved,
            refusal=live.refusal,
            probe_error=live.probe_error,
            push_error=live.push_error,
            waits=live.waits,
            stale_for=live.stale_for,
            served=live.served,
            instances=live.instances,
            agreed=live.agreed,
            node_id=live.target.node_id,
            unseen=live.unseen,
            said_ago=live.said_ago,
            by_word=live.secret_kind is not model.Kind.TLS_CERTIFICATE,
        )
        return cls(
            target=live.target.name,
            kind=live.target.kind,
            identity=live.target.identity,
            node_id=live.target.node_id,
            secret=secret,
            secret_kind=live.secret_kind,
            state=state,
            reason=reason,
            current=live.current,
            sent=live.sent,
            accepted=live.accepted,
            refused=live.refused,
            proved=live.proved,
            proved_by=live.proved_by,
            proved_at=live.proved_at,
            served=live.served,
            stale_since=live.stale_since,
            instances=live.instances,
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
    proxy_protocol: bool
    http3: bool
    admin: str | None
    push: str | None
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
            proxy_protocol=target.proxy_protocol,
            http3=target.http3,
            admin=target.admin,
            push=target.push,
            registered=target.registered,
            last_seen=listed.last_seen,
            deliveries=[Delivery.of(held.delivery, secret=held.secret) for held in listed.holds if held.live],
        )


class Targets(BaseModel):
    """A page of targets, by name."""

    items: list[Target]
    next_cursor: str | None
