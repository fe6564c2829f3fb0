"""What a control plane counts: every metric in one table, and a registry of its own for each `Metrics`.

Counters and histograms are told (`count`, `observe`); a gauge is read at the scrape from whoever owns the
number, in memory: a scrape asks neither database nor KMS, and cannot wait. `exposition` may run in a thread.

Labels hold only what the configuration or this code names: Secrets, issuers, loops, states. Never a proxy:
there may be any number, and they name themselves. Per proxy the API tells (`certvoy proxies`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4"

FAST: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""From a push on one machine to a proxy that was away for minutes."""

SLOW: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""An order at a CA: under a second at one's own, minutes at a public one."""

Labels = tuple[str, ...]
Values = Mapping[Labels, float]


class Kind(StrEnum):
    """How a metric is read."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; ``buckets`` are a histogram's."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _gauge(name: str, said: str, *labels: str) -> Metric:
    return Metric(f"certvoy_{name}", Kind.GAUGE, said, labels)


def _counter(name: str, said: str, *labels: str) -> Metric:
    return Metric(f"certvoy_{name}_total", Kind.COUNTER, said, labels)


def _histogram(name: str, said: str, *labels: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(f"certvoy_{name}_seconds", Kind.HISTOGRAM, said, labels, buckets)


BUILD: Final = _gauge("build_info", "1, with the version that runs.", "version")

DATABASE_UP: Final = _gauge("database_up", "1 while the database answers this replica, else 0.")
INVENTORY_READ: Final = _gauge(
    "inventory_read_timestamp_seconds", "When this replica last read the inventory for these metrics."
)
SECRETS: Final = _gauge(
    "secrets", "Secrets by what is served: valid, expired, or none (not issued).", "state"
)
NOT_BEFORE: Final = _gauge(
    "certificate_not_before_timestamp_seconds", "When the current certificate began to be valid.", "secret"
)
NOT_AFTER: Final = _gauge(
    "certificate_not_after_timestamp_seconds", "When the current certificate ends.", "secret"
)
RENEWAL: Final = _gauge(
    "certificate_renewal_timestamp_seconds", "When the current certificate is to be renewed.", "secret"
)
STAPLE_BEGAN: Final = _gauge(
    "staple_this_update_timestamp_seconds",
    "When the OCSP staple of the current certificate began; absent where there is none.",
    "secret",
)
STAPLE_ENDS: Final = _gauge(
    "staple_next_update_timestamp_seconds",
    "When the OCSP staple of the current certificate ends: after that it is served without.",
    "secret",
)
STAPLE_ANSWERS: Final = _counter(
    "staple_answers",
    "Answers of OCSP responders: good, unchanged (the same as before), failed (none, or none that may be"
    " stapled), revoked.",
    "result",
)
CRL_ANSWERS: Final = _counter(
    "crl_answers",
    "Looks at CAs' revocation lists: read, unchanged, failed (none, or none that may be believed); and"
    " revoked: certificates of ours that were found in one.",
    "result",
)
UNLISTED: Final = _gauge(
    "secrets_unlisted", "Secrets without series of their own: those that end last, when there are too many."
)
OVERDUE: Final = _gauge("renewals_overdue", "Secrets whose renewal moment has passed, and is not done.")
ROTATIONS_OPEN: Final = _gauge("rotations_open", "Open rotations by how far they are.", "state")
ROTATION_OLDEST: Final = _gauge(
    "rotation_oldest_open_timestamp_seconds",
    "When the oldest open rotation began, or is to begin, by how far it is; absent where none is.",
    "state",
)
ROTATIONS_FAILING: Final = _gauge("rotations_failing", "Open rotations whose last attempt failed.")
DELIVERIES: Final = _gauge(
    "deliveries", "Pairs of a live target and a secret, by what is known of the current generation.", "state"
)
UNPROVED: Final = _gauge(
    "secret_unproved_targets",
    "Live targets that are not proved to serve the secret's current generation, by what is known; absent"
    " where there is none.",
    "secret",
    "state",
)

STREAMS: Final = _gauge("xds_streams", "Open streams.")
SUBSCRIPTIONS: Final = _gauge("xds_subscriptions", "Names that proxies subscribe to, counted for each proxy.")
PUSHES: Final = _counter("xds_pushes", "Secrets written to streams, or given to agents.")
ACKS: Final = _counter("xds_acks", "Secrets that proxies said yes to.")
NACKS: Final = _counter("xds_nacks", "Secrets that proxies refused.")
DENIALS: Final = _counter("xds_denials", "Subscriptions to names that the proxy has no grant for.")
TYPES_IGNORED: Final = _counter(
    "xds_types_ignored",
    "Requests on ADS for other types than secrets, by the type: one that Envoy does not have is other.",
    "type",
)
ACCEPTED: Final = _histogram(
    "delivery_accepted",
    "From the moment that this replica could send a version, or the proxy asked for it if later, to its ACK.",
    buckets=FAST,
)
PROVED: Final = _histogram(
    "delivery_proved",
    "From a certificate stored to the handshake that showed it at a target.",
    buckets=FAST,
)
UNWRITTEN: Final = _gauge("deliveries_unwritten", "What proxies told that is not in the database yet.")
PUBLICATIONS: Final = _counter(
    "publications",
    "Certificates that this replica was to serve, by what came of it: published, refused (by the content"
    " gate), held_back (outside of its dates), unopened (its key does not open here), rolled_back (the audit"
    " tells of a newer one).",
    "result",
)
ON_DEMAND: Final = _counter(
    "on_demand_decisions",
    "Names that were asked for and were no secret, by what came of it: created, exists (another replica was"
    " quicker); absent for want of a grant (no_grant), by the rule (too_deep, refused or unanswered by its"
    " URL), by a limit (identity_limit, domain_limit, full, busy), or as the database is away (unavailable).",
    "result",
)
ON_DEMAND_NAMES: Final = _gauge(
    "on_demand_names", "Secrets under names that rules of `on_demand` govern, as this replica knows them."
)
PROBES: Final = _counter(
    "probes",
    "Targets looked at: proved, different (another leaf), failed (no handshake), unprobed.",
    "result",
)
PUSHED: Final = _counter(
    "pushes",
    "Bundles that this replica pushed to agents, by the answer: proved, accepted, refused; failed (none);"
    " impostor (somebody else is there).",
    "result",
)

ISSUER_PAUSED: Final = _gauge(
    "issuer_paused", "1 while no replica asks the issuer: it is away, or wants to be left alone.", "issuer"
)
BAD_NONCES: Final = _counter(
    "acme_bad_nonces",
    "Requests that the issuer refused for their nonce (badNonce), and that were signed and sent again.",
    "issuer",
)
CLOCK_AHEAD: Final = _gauge(
    "clock_ahead_seconds",
    "How far this replica's clock is ahead of the issuer's, by its last answer; negative: behind; absent"
    " before.",
    "issuer",
)
RENEWAL_INFOS: Final = _counter(
    "renewal_infos",
    "Questions to CAs when they would like a certificate renewed (ARI): answered, unsupported (the CA has no"
    " ARI), useless (an answer that is none), failed (no answer).",
    "issuer",
    "result",
)
RENEWAL_INFO_AT: Final = _gauge(
    "renewal_info_answered_timestamp_seconds",
    "When the issuer last answered this replica when it would like a certificate renewed; absent before.",
    "issuer",
)
HELD_BACK: Final = _counter(
    "renewals_held_back",
    "Renewals of young certificates that an issuer wanted again and again, and that were made to wait.",
    "issuer",
)
REFUSES: Final = _gauge(
    "target_refuses",
    "1 for each registered target that refuses what a secret is served with, for a hundred of them; absent"
    " for all others. Proxies that were only seen have none: what they are called is their clients' word.",
    "secret",
    "target",
)
LIMIT_LEFT: Final = _gauge(
    "limit_free_ratio",
    "What is left of a CA's limit, 0 to 1, by what all replicas have taken; of what is counted for each"
    " domain, name or set of names that of which least is left. A fifth is kept for `certvoy rotate`.",
    "issuer",
    "limit",
)
LIMITED: Final = _counter(
    "rate_limited",
    "Answers of CAs that one of their limits is spent (429), by the limit (orders, domain, names, failures,"
    " accounts); unknown: by their words it is none of these.",
    "issuer",
    "limit",
)
CHALLENGES: Final = _counter(
    "challenges_asked",
    "Requests for the answer to a challenge at this replica's responders: answered; unknown (nobody here"
    " asked to prove that: anybody may guess); unanswered (the database is away).",
    "type",
    "result",
)
DEFERRED: Final = _gauge(
    "orders_deferred",
    "Orders that wait, as their CA would count them against us: by a limit (budget.orders, budget.domain,"
    " budget.names, budget.failures, budget.accounts), for others of their domain (budget.in_flight), for the"
    " spacing of the same names, or as none of their issuers may be asked.",
    "issuer",
    "reason",
)
IDENTIFIER_FAILURES: Final = _gauge(
    "identifier_failures",
    "Validations of a name that failed in the last hour, for the hundred names that failed most; absent where"
    " none did.",
    "issuer",
    "identifier",
)
ATTEMPTS: Final = _counter(
    "attempts", "Attempts to get a certificate, by how they ended.", "issuer", "outcome"
)
ATTEMPT_SECONDS: Final = _histogram(
    "attempt_duration", "How long an attempt to get a certificate took.", "issuer", buckets=SLOW
)
PHASE_SECONDS: Final = _histogram(
    "acme_phase_duration",
    "How long a part of an order took, of those that came to their end: order (the CA makes it), challenge"
    " (its answers are where the CA will look, DNS included), authorization (the CA looks), finalize (the CA"
    " issues), download.",
    "issuer",
    "phase",
    buckets=SLOW,
)
STEPS: Final = _counter("acme_steps", "Steps of ACME orders; order.created counts orders.", "issuer", "step")
ROTATIONS_ENDED: Final = _counter("rotations", "Rotations that this replica saw complete.", "outcome")
PAYLOADS_ENDED: Final = _counter(
    "payload_roll_outs",
    "Trust bundles, ticket keys and generic secrets whose roll-out this replica saw complete.",
    "kind",
    "outcome",
)
ROLLED_BACK: Final = _counter(
    "rotations_rolled_back",
    "New certificates that this replica took back: canaries-refused, targets-refused, gate (the content gate"
    " refused it), operator.",
    "reason",
)
STALE: Final = _gauge(
    "secret_stale_timestamp_seconds",
    "Since when some proxy serves something else than it was proved to serve; absent where none does.",
    "secret",
)
FROZEN: Final = _gauge(
    "secret_frozen_timestamp_seconds",
    "Since when a secret is frozen: by a person, or by certvoy, which asks one to decide; absent where it is"
    " not.",
    "secret",
    "by",
)
WORKERS: Final = _gauge("workers", "Workers of this replica.")
WORKERS_BUSY: Final = _gauge("workers_busy", "Workers of this replica that are at a rotation.")
ATTEMPTS_APART: Final = _gauge(
    "attempts_apart", "Attempts of this replica that wait for DNS, or have waited, and hold no worker."
)

KMS_OPERATIONS: Final = _counter(
    "kms_operations", "Calls of the KMS: success, refused, unavailable.", "operation", "result"
)
KMS_SECONDS: Final = _histogram("kms_operation_duration", "How long the KMS took.", "operation", buckets=FAST)
KMS_INSECURE: Final = _gauge("kms_insecure", "1 where the KEK lies in a file, which is for trials only.")
SEALED: Final = _gauge("sealed", "1 while this replica is sealed: it gives nothing away, and opens nothing.")
MEMORY_SCRUB: Final = _gauge(
    "memory_scrub", "1 where memory is overwritten as soon as it is freed, by a look at the start, else 0."
)

AUDIT_UNSEALED: Final = _gauge(
    "audit_unsealed_seconds",
    "How old the oldest audit entry is that no signed checkpoint covers; 0: none.",
)
AUDIT_SEALED_AT: Final = _gauge(
    "audit_checkpoint_timestamp_seconds",
    "When this replica last saw a new checkpoint of the audit; absent before.",
)
AUDIT_BROKEN: Final = _gauge(
    "audit_broken", "1 where the audit is not the one that this replica has witnessed, or is damaged."
)

LOOP_FAILURES: Final = _counter("loop_failures", "Steps of a loop that failed and were tried again.", "loop")
LOOP_SUCCESS: Final = _gauge(
    "loop_last_success_timestamp_seconds", "When a loop last did all that there was to do.", "loop"
)

METRICS: Final = tuple(found for found in globals().values() if isinstance(found, Metric))

RESULTS: Final[Mapping[Metric, tuple[Labels, ...]]] = {
    PUBLICATIONS: tuple(
        (result,) for result in ("published", "refused", "held_back", "unopened", "rolled_back")
    ),
    PROBES: tuple((result,) for result in ("proved", "different", "failed", "unprobed")),
    PUSHED: tuple((result,) for result in ("proved", "accepted", "refused", "failed", "impostor")),
    CHALLENGES: tuple(
        (type_, result)
        for type_ in ("http-01", "tls-alpn-01")
        for result in ("answered", "unknown", "unanswered")
    ),
    CRL_ANSWERS: tuple((result,) for result in ("read", "unchanged", "failed", "revoked")),
    STAPLE_ANSWERS: tuple((result,) for result in ("good", "unchanged", "failed", "revoked")),
    ROTATIONS_ENDED: tuple((outcome,) for outcome in ("completed", "completed_unobserved")),
    PAYLOADS_ENDED: tuple(
        (kind, outcome)
        for kind in ("validation_context", "session_ticket_keys", "generic_secret")
        for outcome in ("completed", "completed_unobserved")
    ),
    ROLLED_BACK: tuple((reason,) for reason in ("canaries-refused", "targets-refused", "gate", "operator")),
    KMS_OPERATIONS: tuple(
        (operation, result)
        for operation in ("wrap", "unwrap", "rewrap")
        for result in ("success", "refused", "unavailable")
    ),
}
"""What exists at 0 from the start: an increase from nothing is none to Prometheus."""


class Metrics:
    """The numbers of one control plane."""

    def __init__(self, *, version: str) -> None:
        # The library's own switch, for the process: a series for when each counter began, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._told: dict[Metric, Counter | Histogram] = {}
        self._read: dict[Metric, Callable[[], Values]] = {}
        for metric in METRICS:
            if metric.kind is Kind.COUNTER and metric is not LOOP_FAILURES:
                self._told[metric] = Counter(metric.name, metric.help, metric.labels, registry=self._registry)
            elif metric.kind is Kind.HISTOGRAM:
                self._told[metric] = Histogram(
                    metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry
                )
        for metric, labels in RESULTS.items():
            self.prepare(metric, labels)
        self.read(BUILD, lambda: {(version,): 1})
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def prepare(self, metric: Metric, labels: Iterable[Labels]) -> None:
        """Let these series of a counter or a histogram exist, at 0."""
        for values in labels:
            self._told[metric].labels(*values)

    def count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        told = self._told[metric]
        assert isinstance(told, Counter)  # noqa: S101 - the table says so
        (told.labels(*labels) if labels else told).inc(by)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add to a histogram."""
        told = self._told[metric]
        assert isinstance(told, Histogram)  # noqa: S101 - the table says so
        (told.labels(*labels) if labels else told).observe(seconds)

    def read(self, metric: Metric, values: Callable[[], Values]) -> None:
        """Ask ``values`` at each scrape: quick, from memory, and from any thread."""
        self._read[metric] = values

    def number(self, metric: Metric, value: Callable[[], float]) -> None:
        """Ask ``value`` at each scrape, for a gauge without labels."""
        self.read(metric, lambda: {(): value()})

    def collect(self) -> Iterable[Family]:
        """Answer prometheus_client, with what is read."""
        for metric, values in self._read.items():
            make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = make(metric.name, metric.help, labels=metric.labels)
            for labels, value in values().items():
                family.add_metric(labels, value)
            yield family

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
