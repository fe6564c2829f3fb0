"""What the records of a Secret mean: states and conditions, each with its reason. Pure.

Whoever asks (commands, API, metrics) gets the same answer to "is it served?".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sds_server.clock import span
from sds_server.model import (
    Certificate,
    CertificateStatus,
    Freeze,
    KeyCustody,
    Outcome,
    Peer,
    Revocation,
    Rotation,
    Stage,
)

LEAF_SHOWN: Final = 16

WORD: Final = "its word, as nothing shows more"


class RotationState(StrEnum):
    """How far a Rotation is."""

    WAITING = "waiting"
    HELD = "held"  # not tried again before a person has acted
    ISSUING = "issuing"
    ROLLING_OUT = "rolling_out"
    COMPLETED = "completed"
    COMPLETED_UNOBSERVED = "completed_unobserved"
    SUPERSEDED = "superseded"


class DeliveryState(StrEnum):
    """What is known of one Secret at one Target, of the generation that it should serve."""

    PROVED = "proved"
    UNSEEN = "unseen"  # it was proved, and since then it cannot be seen
    WAITING = "waiting"  # it serves the generation before, as it should, until the canaries are proved
    REFUSED = "refused"
    ACCEPTED = "accepted"
    SENT = "sent"
    STALE = "stale"
    NEVER = "never"


class ProxyState(StrEnum):
    """How far a proxy has come."""

    SEEN = "seen"
    ENROLLED = "enrolled"
    INVITED = "invited"
    REGISTERED = "registered"


class RevocationState(StrEnum):
    """How far a Certificate is that somebody wants revoked."""

    WAITING = "waiting"
    ASKING = "asking"
    FAILING = "failing"
    REVOKED = "revoked"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is so, or not, and why."""

    type: str
    status: bool
    reason: str
    message: str


_ENDED = {
    Outcome.COMPLETED: RotationState.COMPLETED,
    Outcome.COMPLETED_UNOBSERVED: RotationState.COMPLETED_UNOBSERVED,
    Outcome.SUPERSEDED: RotationState.SUPERSEDED,
}


def rotation_state(rotation: Rotation) -> RotationState:
    """Return how far it is."""
    if rotation.outcome is not None:
        return _ENDED[rotation.outcome]
    if rotation.new_cert_id is not None:
        return RotationState.ROLLING_OUT
    if rotation.leased:
        return RotationState.ISSUING
    return RotationState.WAITING if rotation.next_attempt_at is not None else RotationState.HELD


def rotation_progress(rotation: Rotation) -> str:
    """Return how far it is, for people: while it rolls out, who is asked."""
    state = rotation_state(rotation)
    if state is RotationState.ROLLING_OUT and rotation.stage is Stage.CANARY:
        return f"rolling out, canaries first: {', '.join(rotation.canaries)} asked"
    return state.replace("_", " ")


def revocation_state(revocation: Revocation) -> tuple[RevocationState, str]:
    """Return how far it is, and what that means."""
    if revocation.done_at is not None:
        return RevocationState.REVOKED, f"the CA revoked it at {revocation.done_at:%FT%TZ}"
    if revocation.status is CertificateStatus.EXPIRED:
        return RevocationState.LAPSED, "it expired before the CA was asked: nobody accepts it any more"
    if not revocation.ready:
        return RevocationState.WAITING, "the CA is asked once a later generation is proved everywhere"
    if revocation.error is not None:
        return RevocationState.FAILING, str(revocation.error["what"])
    return RevocationState.ASKING, "the CA is asked now"


def delivery_state(
    *,
    current: int | None,
    sent: int | None,
    accepted: int | None,
    refused: int | None,
    proved: int | None,
    refusal: str | None,
    probe_error: str | None,
    push_error: str | None = None,
    waits: bool = False,
    stale_for: timedelta | None = None,
    served: str | None = None,
    instances: int = 1,
    agreed: int | None = None,
    node_id: str | None = None,
    by_word: bool = False,
    unseen: bool = False,
    said_ago: timedelta | None = None,
) -> tuple[DeliveryState, str | None]:
    """Return what is known of a Target, and why it is not proved.

    ``current`` is the generation that it is offered and so should serve; the others are those that are
    recorded of it. ``waits``: a later one is at the canaries. ``stale_for``: for so long it was seen not to
    serve what it was proved to serve, but the leaf ``served``. ``instances``: so many streams are open under
    its ``node_id``, and each has accepted ``agreed``. ``push_error``: why it could not be pushed to.
    ``by_word``: it is no certificate, and nothing shows more than the Target's word. ``unseen``: what was
    proved could not be seen since, for ``probe_error``, or as its agent said it last so long ago.
    """
    if current is None:
        return DeliveryState.NEVER, "nothing is issued yet"
    if stale_for is not None:
        # What it has loaded is no leaf; or which it is nobody knows; or the look says where it is served.
        says = by_word or served is None or served[:LEAF_SHOWN] in (probe_error or "")
        return DeliveryState.STALE, _stale(stale_for, probe_error if says else None, served, current)
    if (proved or 0) >= current:
        return _unseen(probe_error, said_ago) if unseen else _well(current, waits=waits)
    if waits and by_word and accepted == current:
        return _well(current, waits=True)
    newest = max(sent or 0, accepted or 0, proved or 0)
    if instances > 1 and (agreed or 0) < current:
        divided = f"{shared(instances, node_id)}; not all of them have accepted generation {current}"
        refusal, probe_error = divided if refusal is None else f"{refusal}; {divided}", divided
    if refused == current and accepted != current:
        state, reason = DeliveryState.REFUSED, refusal
    elif (accepted or 0) >= current:
        state, reason = (
            DeliveryState.ACCEPTED,
            probe_error or (WORD if by_word else "accepted, and not probed yet"),
        )
    elif (sent or 0) >= current:
        state, reason = DeliveryState.SENT, push_error or probe_error or "sent, and not answered yet"
    elif newest:
        state, reason = (
            DeliveryState.STALE,
            push_error or probe_error or f"it has generation {newest}, not {current}",
        )
    else:
        state, reason = DeliveryState.NEVER, push_error or probe_error or "it was never seen subscribing"
    return state, reason


def _well(current: int, *, waits: bool) -> tuple[DeliveryState, str | None]:
    if waits:
        return DeliveryState.WAITING, f"it serves generation {current} until the canaries are proved"
    return DeliveryState.PROVED, None


def _unseen(probe_error: str | None, said_ago: timedelta | None) -> tuple[DeliveryState, str]:
    if probe_error is None and said_ago is not None:
        since = f"its agent said it {span(said_ago.total_seconds())} ago, and nothing since"
    else:
        since = f"it is not seen any more: {probe_error}"
    return DeliveryState.UNSEEN, f"it was proved; {since}"


def _stale(stale_for: timedelta, said: str | None, served: str | None, current: int) -> str:
    since = f"for {span(stale_for.total_seconds())}"
    if said is not None:
        return f"{since}: {said}"
    leaf = "another leaf" if served is None else f"{served[:LEAF_SHOWN]}..."
    return f"{since} it serves {leaf}, not generation {current}"


def shared(instances: int, node_id: str | None) -> str:
    """Say that several are one Target, and what to do about it."""
    return f"{instances} proxies call themselves {node_id}: give each its own node.id"


def proxy_state(
    *, seen: bool, invited: bool, credential_until: datetime | None
) -> tuple[ProxyState, str | None]:
    """Return how far a proxy has come, and why not further."""
    if seen:
        return ProxyState.SEEN, None
    if credential_until is not None:
        ends = f"its credential ends at {credential_until:%FT%TZ}"
        return ProxyState.ENROLLED, f"it was not seen asking for a name that it may see; {ends}"
    if invited:
        return ProxyState.INVITED, "it has not enrolled yet: `certvoy agent` does, with its token"
    return ProxyState.REGISTERED, None


def has_keys(peer: Peer) -> str:
    """Say whose a Secret's private keys are; a Target that gives no name of its own is its identity."""
    named = peer.node_id if peer.node_id == peer.identity else f"{peer.node_id} ({peer.identity})"
    return f"{named} has its keys"


def custody_said(custody: KeyCustody | None) -> str:
    """Say which Target has a Secret's private keys, and whether its next request lies ready."""
    if custody is None:
        return "none has its keys yet: the first that brings a request will"
    who = has_keys(custody.peer)
    if custody.waits:
        return f"{who}, and its request of {custody.brought_at:%FT%TZ} waits for the next order"
    return f"{who}, and nothing has come since its request of {custody.brought_at:%FT%TZ}"


def renewal_said(reason: str | None) -> str:
    """Say why a Certificate is renewed when it is."""
    from acme_engine import renewal  # noqa: PLC0415 - commands use other words of ours, and load no ACME client

    said = {
        "third-left": "a third of its life is left then",
        "half-left": "half of its short life is left then",
        renewal.WINDOW: "its CA wishes it so",
        renewal.PAST: "its CA wants it replaced at once: its window is over",
        renewal.CLAMPED: "its CA wishes it later, which leaves too little time to try again",
        renewal.HELD: "its CA wants each new one replaced at once, and is made to wait",
    }
    return said.get(reason or "", reason or "nothing is planned")


def on_demand(asked: Mapping[str, Any]) -> str:
    """Say how a Secret came of a handshake, and when it goes; ``asked`` is as the API says it."""
    said = f"by the rule {asked['rule']}, first for {asked['identity']}"
    if not asked["governed"]:
        return f"{said}; this replica has no such rule: where none has it for an hour, it is removed"
    return f"{said}; removed once nobody has subscribed to it for {span(asked['keep'])}"


def of_secret(
    *,
    certificate: Certificate | None,
    rotation: Rotation | None,
    deliveries: Sequence[DeliveryState],
    now: datetime,
    revocations: Sequence[Revocation] = (),
    uploaded: bool = False,
    frozen: Freeze | None = None,
    custody: KeyCustody | None = None,
    by_target: bool = False,
) -> Sequence[Condition]:
    """Return Ready, Issuing, Served and RenewalOverdue, as cert-manager's users know them.

    ``uploaded``: its pairs come from a person, and so do its renewals. ``frozen``: how it is held.
    ``by_target``: its keys are made by a Target, by the one of ``custody``.
    """
    wants_request = by_target and (custody is None or not custody.waits)
    return [
        _ready(certificate, revocations, now),
        _issuing(rotation, frozen, custody_said(custody) if wants_request else None),
        _served(certificate, deliveries),
        _overdue(certificate, now, uploaded=uploaded),
    ]


def of_payload(
    *,
    generation: int | None,
    not_after: datetime | None,
    rolling_out: bool,
    error: str | None,
    deliveries: Sequence[DeliveryState],
    now: datetime,
    frozen: Freeze | None = None,
) -> Sequence[Condition]:
    """Return Ready, Issuing, Served and RenewalOverdue of what is no certificate.

    ``not_after``: when the first part of a trust bundle ends. ``error``: why the newest version was given up.
    Served: each target has taken it; that is a proof only where one is named so.
    """
    return [
        _payload_ready(generation, not_after, now),
        _payload_under_way(frozen, error, rolling_out=rolling_out),
        _payload_taken(generation, deliveries),
        Condition("RenewalOverdue", status=False, reason="NoRenewal", message="no CA is asked for it"),
    ]


def _payload_ready(generation: int | None, not_after: datetime | None, now: datetime) -> Condition:
    if generation is None:
        return Condition("Ready", status=False, reason="Empty", message="it holds nothing yet")
    if not_after is None:
        return Condition("Ready", status=True, reason="Valid", message=f"generation {generation}")
    if not_after <= now:
        over = f"generation {generation}: a CA or CRL of it ended at {not_after:%FT%TZ}"
        return Condition("Ready", status=False, reason="Expired", message=over)
    ends = f"generation {generation}, whose first CA or CRL ends at {not_after:%FT%TZ}"
    return Condition("Ready", status=True, reason="Valid", message=ends)


def _payload_under_way(frozen: Freeze | None, error: str | None, *, rolling_out: bool) -> Condition:
    if frozen is not None:
        held = f"frozen since {frozen.at:%FT%TZ} by {frozen.by}: {frozen.reason}"
        return Condition("Issuing", status=False, reason="Frozen", message=held)
    if rolling_out:
        said = "a new version goes out, and not every target has taken it"
        return Condition("Issuing", status=True, reason="UnderWay", message=said)
    if error is not None:
        return Condition("Issuing", status=False, reason="Rejected", message=error)
    return Condition("Issuing", status=False, reason="Idle", message="nothing is being rolled out")


def _payload_taken(generation: int | None, deliveries: Sequence[DeliveryState]) -> Condition:
    if generation is None:
        return Condition("Served", status=False, reason="Empty", message="it holds nothing yet")
    if not deliveries:
        none = "no target was seen subscribing, and none is registered"
        return Condition("Served", status=False, reason="NoTarget", message=none)
    proved = sum(state is DeliveryState.PROVED for state in deliveries)
    taken = proved + sum(state in {DeliveryState.ACCEPTED, DeliveryState.UNSEEN} for state in deliveries)
    said = f"{taken} of {len(deliveries)} targets have taken generation {generation}, {proved} of them proved"
    if waiting := deliveries.count(DeliveryState.WAITING):
        said += f", {waiting} wait{'s' * (waiting == 1)} for the canaries"
    whole = taken == len(deliveries)
    return Condition("Served", status=whole, reason="Taken" if whole else "NotTaken", message=said)


def _ready(certificate: Certificate | None, revocations: Sequence[Revocation], now: datetime) -> Condition:
    revoked = [revocation for revocation in revocations if revocation.done_at is not None]
    if certificate is None and revoked:
        gone = f"generation {revoked[0].generation} is revoked, and its successor is not issued yet"
        return Condition("Ready", status=False, reason="Revoked", message=gone)
    if certificate is None:
        return Condition("Ready", status=False, reason="NotIssued", message="no certificate is issued yet")
    if certificate.not_after <= now:
        ended = f"{certificate.not_after:%FT%TZ}"
        return Condition("Ready", status=False, reason="Expired", message=f"it ended at {ended}")
    ends = f"generation {certificate.generation}, valid until {certificate.not_after:%FT%TZ}"
    return Condition("Ready", status=True, reason="Valid", message=ends)


def _issuing(rotation: Rotation | None, frozen: Freeze | None, wants_request: str | None) -> Condition:
    if frozen is not None:
        held = f"frozen since {frozen.at:%FT%TZ} by {frozen.by}: {frozen.reason}"
        return Condition("Issuing", status=False, reason="Frozen", message=held)
    if rotation is None or rotation.outcome is not None:
        return Condition("Issuing", status=False, reason="Idle", message="no rotation is open")
    if wants_request is not None and rotation_state(rotation) is RotationState.WAITING:
        awaited = f"rotation {rotation.id} waits for a signing request: {wants_request}"
        return Condition("Issuing", status=True, reason="KeyAwaited", message=awaited)
    what = f"rotation {rotation.id}, {rotation_progress(rotation)}"
    if rotation.last_error is not None:
        return Condition("Issuing", status=True, reason="Failing", message=str(rotation.last_error["what"]))
    return Condition("Issuing", status=True, reason="UnderWay", message=what)


def _served(certificate: Certificate | None, deliveries: Sequence[DeliveryState]) -> Condition:
    if certificate is None or not deliveries:
        message = "no proxy was seen subscribing, and none is registered for it"
        return Condition("Served", status=False, reason="NoTarget", message=message)
    proved = deliveries.count(DeliveryState.PROVED)
    message = f"{proved} of {len(deliveries)} proved to serve generation {certificate.generation}"
    waiting = deliveries.count(DeliveryState.WAITING)
    if waiting:
        message += f", {waiting} wait{'s' * (waiting == 1)} for the canaries"
    if unseen := deliveries.count(DeliveryState.UNSEEN):
        message += f", {unseen} {'was' if unseen == 1 else 'were'} and cannot be seen any more"
    if proved == len(deliveries):
        return Condition("Served", status=True, reason="Proved", message=message)
    reason = "NotSeen" if proved + unseen == len(deliveries) else "NotProved"
    if DeliveryState.REFUSED in deliveries:
        reason = "Refused"
    return Condition("Served", status=False, reason=reason, message=message)


def _overdue(certificate: Certificate | None, now: datetime, *, uploaded: bool) -> Condition:
    at = None if certificate is None else certificate.renew_at
    if at is None:
        return Condition("RenewalOverdue", status=False, reason="NotPlanned", message="nothing to renew")
    late = at < now
    verb = "was due" if late else "is due"
    message = f"its renewal {verb} at {at:%FT%TZ}"
    if uploaded:
        message += ", and no CA is asked for it: upload the next pair (`certvoy upload`)"
    return Condition("RenewalOverdue", status=late, reason="Late" if late else "InTime", message=message)
