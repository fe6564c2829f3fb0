"""What stands between two parts and counts what goes through: streams and their Observer, Sealer and KMS."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from acme_engine.http01 import Http01Responder
from acme_engine.tls_alpn01 import TlsAlpn01Responder
from sds_server import memory, metrics
from sds_server.clock import Clock
from sds_server.errors import CustodyError
from sds_server.keys.kms import Kms, Sealer, WrappedDek
from sds_server.lifecycle.accounts import Accounts
from sds_server.lifecycle.audit_sealer import AuditSealer
from sds_server.lifecycle.failure import Ended
from sds_server.lifecycle.loop import Loop
from sds_server.lifecycle.on_demand import OnDemand
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.phases import Phase
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.recorder import Recorder
from sds_server.lifecycle.renewals import Answer, Renewals
from sds_server.lifecycle.settler import Settler
from sds_server.lifecycle.skew import Skew
from sds_server.lifecycle.worker import Worker
from sds_server.limits import Counted
from sds_server.metrics import Metrics
from sds_server.on_demand.rules import Result
from sds_server.xds.caller import Denied
from sds_server.xds.catalog import Resource
from sds_server.xds.server import SdsServer
from sds_server.xds.service import Observer, PeerNode

UNKNOWN_LIMIT = "unknown"
UNKNOWN_ISSUER = "unknown"
"""One that this replica's configuration does not name: no label may hold what anybody can make up."""


TYPES: Final = {
    f"type.googleapis.com/envoy.{name}": name.rpartition(".")[2]
    for name in (
        "config.listener.v3.Listener",
        "config.cluster.v3.Cluster",
        "config.endpoint.v3.ClusterLoadAssignment",
        "config.endpoint.v3.LbEndpoint",
        "config.route.v3.RouteConfiguration",
        "config.route.v3.ScopedRouteConfiguration",
        "config.route.v3.VirtualHost",
        "config.core.v3.TypedExtensionConfig",
        "service.runtime.v3.Runtime",
    )
}
"""What Envoy asks ADS for besides secrets."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A name that a peer subscribes to: since when (monotonic seconds), and the version that it accepted."""

    since: float
    accepted: str | None = None


class MeasuredStreams:
    """An Observer that counts, times how long peers wait for a version, and passes on what it hears."""

    def __init__(self, observer: Observer, *, to: Metrics, clock: Clock) -> None:
        self._observer = observer
        self._metrics = to
        self._clock = clock
        self._wanted: dict[tuple[PeerNode, str], _Wanted] = {}
        self._published: dict[str, tuple[str, float]] = {}
        to.number(metrics.SUBSCRIPTIONS, lambda: len(self._wanted))

    def published(self, resource: Resource) -> None:
        """From now on streams can be sent this version."""
        self._metrics.count(metrics.PUBLICATIONS, "published")
        self._published[resource.name] = (resource.version, self._clock.monotonic())

    def subscribed(self, peer: PeerNode, name: str) -> None:
        """The peer wants the name now."""
        self._wanted.setdefault((peer, name), _Wanted(self._clock.monotonic()))
        self._observer.subscribed(peer, name)

    def unsubscribed(self, peer: PeerNode, name: str) -> None:
        """The peer does not want the name any more."""
        self._wanted.pop((peer, name), None)
        self._observer.unsubscribed(peer, name)

    def disconnected(self, peer: PeerNode, name: str) -> None:
        """The stream on which the peer wanted the name has ended."""
        self._wanted.pop((peer, name), None)
        self._observer.disconnected(peer, name)

    def sent(self, peer: PeerNode, resource: Resource) -> None:
        """The Resource goes out on the peer's stream."""
        self._metrics.count(metrics.PUSHES)
        self._observer.sent(peer, resource)

    def accepted(
        self, peer: PeerNode, name: str, version: str, generation: int, *, nonce: str | None = None
    ) -> None:
        """The peer said yes. Unchanged content is sent again now and then: only its first yes is timed."""
        self._metrics.count(metrics.ACKS)
        wanted = self._wanted.get((peer, name))
        current, since = self._published.get(name, (None, 0.0))
        if wanted is not None and version == current != wanted.accepted:
            self._wanted[peer, name] = dataclasses.replace(wanted, accepted=version)
            self._metrics.observe(metrics.ACCEPTED, self._clock.monotonic() - max(since, wanted.since))
        self._observer.accepted(peer, name, version, generation, nonce=nonce)

    def refused(
        self,
        peer: PeerNode,
        name: str,
        version: str,
        generation: int,
        detail: str,
        *,
        nonce: str | None = None,
    ) -> None:
        """The peer said no."""
        self._metrics.count(metrics.NACKS)
        self._observer.refused(peer, name, version, generation, detail, nonce=nonce)

    def unstapled(self, peer: PeerNode, name: str, version: str) -> None:
        """The peer said no, to a staple perhaps."""
        self._metrics.count(metrics.NACKS)
        self._observer.unstapled(peer, name, version)

    def denied(self, peer: PeerNode, name: str, why: Denied) -> None:
        """The peer wants a name that it may not see."""
        self._metrics.count(metrics.DENIALS)
        self._observer.denied(peer, name, why)


def watch_responders(http01: Http01Responder | None, tls: TlsAlpn01Responder | None, *, to: Metrics) -> None:
    """Count who asks for the answers to challenges."""
    if http01 is not None:
        http01.on_asked = lambda how: to.count(metrics.CHALLENGES, "http-01", how)
    if tls is not None:
        tls.on_asked = lambda how: to.count(metrics.CHALLENGES, "tls-alpn-01", how)


def watch_types(to: Metrics) -> Callable[[str], None]:
    """Return what counts a request for another type than Secret: what clients make up is one label."""
    return lambda type_url: to.count(metrics.TYPES_IGNORED, TYPES.get(type_url, "other"))


class MeasuredKms:
    """A Kms whose operations are counted and timed."""

    def __init__(self, kms: Kms, *, to: Metrics, clock: Clock) -> None:
        self._kms = kms
        self._metrics = to
        self._clock = clock
        self.kek_uri = kms.kek_uri
        self.insecure = kms.insecure

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes."""
        async with self._measured("wrap"):
            return await self._kms.wrap(dek, context)

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`."""
        async with self._measured("unwrap"):
            return await self._kms.unwrap(wrapped, kek_version=kek_version, context=context)

    async def rewrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        """Wrap the same DEK anew."""
        async with self._measured("rewrap"):
            return await self._kms.rewrap(wrapped, kek_version=kek_version, context=context)

    async def close(self) -> None:
        """End what is open."""
        await self._kms.close()

    @asynccontextmanager
    async def _measured(self, operation: str) -> AsyncIterator[None]:
        started = self._clock.monotonic()
        result = "unavailable"  # also what the Sealer gives up on: it cancels
        try:
            yield
            result = "success"
        except CustodyError:
            result = "refused"
            raise
        finally:
            self._metrics.count(metrics.KMS_OPERATIONS, operation, result)
            self._metrics.observe(metrics.KMS_SECONDS, self._clock.monotonic() - started, operation)


def watch_custody(sealer: Sealer, *, to: Metrics) -> None:
    """Tell whether the KEK that wraps is for trials only; those that only open may be."""
    to.number(metrics.KMS_INSECURE, lambda: sealer.insecure)
    to.number(metrics.SEALED, lambda: sealer.locked)
    to.number(metrics.MEMORY_SCRUB, lambda: memory.look().works)


def watch_audit(sealer: AuditSealer, *, to: Metrics) -> None:
    """Tell how far the audit is sealed."""
    to.number(metrics.AUDIT_UNSEALED, lambda: sealer.unsealed_s)
    to.number(metrics.AUDIT_BROKEN, lambda: sealer.broken)
    to.read(
        metrics.AUDIT_SEALED_AT,
        lambda: {} if sealer.sealed_at is None else {(): sealer.sealed_at.timestamp()},
    )


def watch_loops(loops: Iterable[Loop], *, to: Metrics, clock: Clock) -> None:
    """Tell of each loop how often it failed, and when it last did not; beside what it tells of already."""
    successes: dict[tuple[str, ...], float] = {}
    loops = tuple(loops)

    def note(loop: Loop) -> None:
        told, name = loop.on_success, (loop.name,)

        def succeeded() -> None:
            successes[name] = clock.now().timestamp()
            told()

        loop.on_success = succeeded

    for loop in loops:
        note(loop)
    to.read(metrics.LOOP_FAILURES, lambda: {(loop.name,): loop.failed for loop in loops})
    to.read(metrics.LOOP_SUCCESS, lambda: dict(successes))


def watch_work(worker: Worker, *, workers: int, issuers: Iterable[str], to: Metrics) -> None:
    """Count attempts, steps and spent limits at each issuer, and time the phases of orders."""
    known = frozenset(issuers)
    to.prepare(metrics.ATTEMPTS, ((issuer, ended) for issuer in sorted(known) for ended in Ended))
    to.number(metrics.WORKERS, lambda: workers)
    to.number(metrics.WORKERS_BUSY, lambda: worker.busy)
    to.number(metrics.ATTEMPTS_APART, lambda: worker.apart)

    def label(issuer: str) -> str:
        return issuer if issuer in known else UNKNOWN_ISSUER

    def attempted(issuer: str, ended: Ended, seconds: float) -> None:
        to.count(metrics.ATTEMPTS, label(issuer), ended)
        to.observe(metrics.ATTEMPT_SECONDS, seconds, label(issuer))

    def went(issuer: str, phase: Phase, seconds: float) -> None:
        to.observe(metrics.PHASE_SECONDS, seconds, label(issuer), phase)

    def limited(issuer: str, limit: str | None) -> None:
        to.count(metrics.LIMITED, label(issuer), limit or UNKNOWN_LIMIT)

    limits = (*Counted, UNKNOWN_LIMIT)
    to.prepare(metrics.LIMITED, ((issuer, limit) for issuer in sorted(known) for limit in limits))
    worker.on_attempt, worker.on_phase, worker.on_limited = attempted, went, limited
    worker.on_step = lambda issuer, step: to.count(metrics.STEPS, label(issuer), step)


def watch_issuers(patience: Patience, *, issuers: Iterable[str], to: Metrics) -> None:
    """Tell which CAs are left alone."""
    known = sorted(issuers)
    to.read(metrics.ISSUER_PAUSED, lambda: {(issuer,): issuer in patience.paused for issuer in known})


def watch_accounts(accounts: Accounts, *, issuers: Iterable[str], to: Metrics) -> None:
    """Count the nonces that CAs refuse."""
    to.prepare(metrics.BAD_NONCES, ((issuer,) for issuer in sorted(issuers)))
    accounts.on_bad_nonce = lambda issuer: to.count(metrics.BAD_NONCES, issuer)


def watch_skew(skew: Skew, *, to: Metrics) -> None:
    """Tell how far our clock is ahead of each CA's."""
    to.read(
        metrics.CLOCK_AHEAD,
        lambda: {(issuer,): ahead.total_seconds() for issuer, ahead in skew.ahead.items()},
    )


def watch_renewals(renewals: Renewals, *, issuers: Iterable[str], clock: Clock, to: Metrics) -> None:
    """Count what CAs answer when asked for a renewal's time."""
    known = sorted(issuers)
    to.prepare(metrics.RENEWAL_INFOS, ((issuer, answer) for issuer in known for answer in Answer))
    to.prepare(metrics.HELD_BACK, ((issuer,) for issuer in known))
    answered: dict[tuple[str, ...], float] = {}

    def note(issuer: str, answer: Answer) -> None:
        to.count(metrics.RENEWAL_INFOS, issuer, answer)
        if answer is Answer.ANSWERED:
            answered[issuer,] = clock.now().timestamp()

    renewals.on_answer = note
    renewals.on_held_back = lambda issuer: to.count(metrics.HELD_BACK, issuer)
    to.read(metrics.RENEWAL_INFO_AT, lambda: dict(answered))


def watch_on_demand(on_demand: OnDemand, *, to: Metrics) -> None:
    """Count what becomes of names that are asked for, and tell how many there are."""
    to.prepare(metrics.ON_DEMAND, ((result,) for result in Result))
    to.number(metrics.ON_DEMAND_NAMES, lambda: on_demand.names.known)
    on_demand.on_result = lambda result: to.count(metrics.ON_DEMAND, result)


def watch_delivery(
    publisher: Publisher,
    streams: MeasuredStreams,
    prover: Prover,
    settler: Settler,
    *,
    recorder: Recorder,
    sds: SdsServer,
    to: Metrics,
) -> None:
    """Count and time what becomes of a version: published, sent, and proved."""
    to.number(metrics.STREAMS, lambda: sds.streams)
    to.number(metrics.UNWRITTEN, lambda: recorder.unwritten)
    publisher.on_published = streams.published
    publisher.on_withheld = lambda why: to.count(metrics.PUBLICATIONS, why)
    prover.on_look = lambda result: to.count(metrics.PROBES, result)
    prover.on_proof = lambda seconds: to.observe(metrics.PROVED, seconds)
    prover.on_roll_back = publisher.on_roll_back = lambda reason: to.count(metrics.ROLLED_BACK, reason)
    prover.on_end = lambda outcome: to.count(metrics.ROTATIONS_ENDED, outcome)
    settler.on_roll_back = prover.on_roll_back
    settler.on_end = lambda kind, outcome: to.count(metrics.PAYLOADS_ENDED, kind, outcome)
