"""Reports: what an agent beside a proxy says of the Certificate that it was given.

A report writes the same Delivery as an Envoy's ACK or NACK. "Proved" says that the agent made the handshake
itself and saw the leaf: it counts where we cannot look ourselves. A Target with an address is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sds_server.errors import Conflict, NotFound
from sds_server.inventory import audit, certificates, deliveries, secrets, targets
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.inventory.deliveries import News
from sds_server.inventory.targets import Live
from sds_server.lifecycle.states import Event
from sds_server.model import Identity, Peer, ProvedBy, Target, TargetId, TargetKind

NOT_SEEN: Final = "its agent saw it served, and says that it does so no more"


class Said(StrEnum):
    """What an agent says of a Certificate."""

    ACCEPTED = "accepted"
    PROVED = "proved"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says. ``generation`` and ``fingerprints`` are all that it says of what it speaks of.

    ``identity``: whose Target it is; None: an operator speaks for a Target that there is. ``refusal`` is
    scrubbed. ``address``: where the agent looked; kept as evidence, and never connected to. ``asked``: the
    Target as it was when its agent was asked, if it was: the answer counts while it is that agent's still.
    """

    secret: str
    target: str
    identity: Identity | None
    kind: TargetKind
    said: Said
    generation: int | None
    fingerprints: Sequence[str]
    refusal: str | None
    address: str | None
    asked: Target | None = None


async def write(database: Database, report: Report, *, seen_for: timedelta, actor: str) -> Live:
    """Write what is said, and return what is known of the Target now.

    Raises:
        NotFound: there is no such Secret, or no such Target that serves it.
        Conflict: the report is not about what the Target is offered, or not by who is asked by now, or the
        identity has too many Targets.
    """
    async with database.transaction() as tx:
        await secrets.lock(tx, report.secret)
        target = await _target(tx, report)
        current = await tx.row("offered_leaf", report.secret, target["id"])
        _check_current(report, current)
        assert current is not None  # noqa: S101 - checked
        generation: int = current["generation"]
        news = News(
            identity=target["identity"] or Identity(""),
            node_id=target["node_id"] or "",
            secret=report.secret,
            sent=None,
            accepted=None if report.said is Said.REFUSED else generation,
            refused=generation if report.said is Said.REFUSED else None,
            refusal=report.refusal,
            refused_version=None,
            seen_for=seen_for,
        )
        await deliveries.mark(tx, [(TargetId(target["id"]), news)], actor=actor)
        # Only where nobody else can look; an Envoy's own word is its ACK, and proves nothing.
        blind = target["probe"] is None and target["admin"] is None
        about = (target["id"], report.secret, generation)
        if report.said is Said.REFUSED and blind:
            await tx.rows("take_proof_back", *about)
        elif report.said is Said.ACCEPTED and blind:
            await tx.rows("doubt_proof", *about, NOT_SEEN)
        believed = report.identity is None or target["kind"] != TargetKind.ENVOY
        proves = report.said is Said.PROVED and blind and believed
        if proves and await tx.rows(
            "prove_deliveries", report.secret, [target["id"]], [ProvedBy.AGENT], generation
        ):
            await certificates.move(tx, current["id"], Event.CONFIRMED, actor=actor, subject=report.secret)
            contents = await audit.contents_of(tx, [(report.secret, generation)])
            await audit.append(
                tx,
                action="delivery.proved",
                actor=actor,
                subject=report.secret,
                cert_id=current["id"],
                detail={
                    "target": target["id"],
                    "generation": generation,
                    "by": ProvedBy.AGENT,
                    "address": report.address,
                    **contents[report.secret, generation].detail,
                },
            )
        elif proves:
            await tx.rows("say_again", *about)
        return await targets.of_secret(tx, target, report.secret)


def _check_current(report: Report, current: Row | None) -> None:
    if current is None:
        raise Conflict(f"secret {report.secret}: nothing is issued yet", hint="fetch the bundle first")
    what = f"generation {current['generation']}, leaf SHA-256 {current['fingerprint']}"
    hint = f"fetch the bundle again: what is current is {what}"
    if report.generation not in {None, current["generation"]}:
        raise Conflict(f"secret {report.secret}: generation {report.generation} is not current", hint=hint)
    for fingerprint in report.fingerprints:
        if fingerprint != current["fingerprint"]:
            raise Conflict(f"secret {report.secret}: {fingerprint} is not the current leaf", hint=hint)


async def _target(tx: Transaction, report: Report) -> Row:
    if report.identity is not None:
        name = Peer.of(report.identity, report.target).node_id
        known = await deliveries.target_of(tx, report.identity, name, report.kind)
        if known is None:
            raise Conflict(
                f"target {name}: the identity has too many targets already", hint="report under fewer names"
            )
        row = await tx.row("target_by_id", known)
    else:
        row = await tx.row("target_of_secret", report.target, report.secret)
    if row is None:
        raise NotFound(
            f"target {report.target}: it does not count for {report.secret}",
            hint="`certvoy targets add NAME --secret SECRET`, or report with its client certificate",
        )
    asked = report.asked
    if asked is not None and (asked.push, asked.identity) != (row["push"], row["identity"]):
        raise Conflict(
            f"target {report.target}: it has moved while its agent was asked", hint="ask at its new address"
        )
    return row
