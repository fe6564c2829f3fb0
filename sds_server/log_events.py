"""Every event that is logged: its level, what it means, and its fields. A test holds it against the code.

Each line also has ``event``, ``level``, ``timestamp`` (RFC 3339, UTC), ``component``, ``replica``; one that
tells of a bug has ``exception``. An error is for a person to act on, a warning for one to look at soon.
"""

from typing import Final

from sds_server.log_event import LogEvent
from sds_server.log_events_issuing import ISSUING
from sds_server.log_events_serving import SERVING

EVENTS: Final = (
    *SERVING,
    *ISSUING,
    # Time
    LogEvent("certificates.lapsed", "info", "So many certificates came to their end.", ("count",)),
    LogEvent(
        "renewal.decided",
        "info",
        "By its CA's word a certificate is renewed at another time than was planned.",
        ("secret", "at", "reason", "window_start", "window_end", "explanation_url"),
    ),
    LogEvent(
        "renewal.held_back",
        "error",
        "A CA wants each new certificate of a secret replaced at once: the next renewal waits.",
        ("secret", "issuer", "until", "hint"),
    ),
    LogEvent(
        "renewal.unanswered",
        "warning",
        "A CA did not say when it would like a renewal: it is planned by the certificate's dates.",
        ("secret", "issuer", "error"),
    ),
    LogEvent("renewals.opened", "info", "So many renewals were due.", ("count",)),
    LogEvent(
        "tickets.kept",
        "info",
        "Ticket keys that were due are not made now: somebody changed them meanwhile, or they are frozen.",
        ("secret", "reason"),
    ),
    LogEvent(
        "tickets.rotated",
        "info",
        "A new session ticket key was made, and comes first; the ones before are kept for their time.",
        ("secret", "generation", "keep"),
    ),
    # An agent beside a proxy
    LogEvent(
        "bundle.not_fetched",
        "warning",
        "An agent could not ask the control plane, or could not write; what it serves it serves on.",
        ("secret", "failures", "error", "hint"),
    ),
    LogEvent("key.made", "info", "An agent has made a private key.", ("secret", "spki_sha256", "reason")),
    LogEvent(
        "key.not_requested",
        "warning",
        "An agent could not bring a signing request; it tries again in the next round.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "key.requested",
        "info",
        "The next order's signing request is brought; lost: the generation whose key is not on the host.",
        ("secret", "spki_sha256", "lost"),
    ),
    LogEvent(
        "keys.removed", "info", "An agent has removed keys that no chain can ask for.", ("secret", "keys")
    ),
    LogEvent(
        "pair.delivered",
        "info",
        "A pair lies in its place. Proved: a handshake shows it; accepted: nobody looks, or nobody listens.",
        ("secret", "generation", "state", "reason"),
    ),
    LogEvent(
        "pair.not_restored",
        "error",
        "The pair before is in its place again, but the program does not serve it.",
        ("secret", "generation", "error"),
    ),
    LogEvent(
        "pair.not_resumed",
        "error",
        "What lies in the pair's directory cannot be used or written.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "pair.not_served",
        "warning",
        "The program serves something else than the pair in its place; it is told again.",
        ("secret", "generation", "seen"),
    ),
    LogEvent(
        "pair.refused",
        "error",
        "The content gate or the program refused a pair; the one before is served on.",
        ("secret", "generation", "reason", "tries", "again_s"),
    ),
    LogEvent(
        "report.not_taken",
        "warning",
        "The control plane does not take what an agent says of a pair.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "report.outdated",
        "info",
        "What an agent said was of a pair that is not current any more.",
        ("secret", "error"),
    ),
    # The audit
    LogEvent(
        "audit.broken",
        "error",
        "The audit is damaged, or not the one witnessed here. Nothing more is sealed; find out why.",
        ("error", "hint"),
    ),
    LogEvent(
        "audit.checkpointed",
        "info",
        "The audit has so many leaves, with this root; the note is signed. Keep it elsewhere.",
        ("size", "root", "note"),
    ),
    LogEvent(
        "audit.fork_accepted",
        "error",
        "Started on an audit that is not the one witnessed here, as somebody said that they know.",
        ("reason", "witnessed", "leaves", "common"),
    ),
    LogEvent(
        "audit.key_ready",
        "info",
        "This key signs the audit's checkpoints: whoever verifies needs it. New: it was made now.",
        ("key", "new"),
    ),
    # The process
    LogEvent(
        "audit.dropped",
        "error",
        "The database was away for so long that so many entries of the audit were not kept.",
        ("count",),
    ),
    LogEvent(
        "app.ready",
        "info",
        "It serves; with its ports.",
        (
            *("replica", "sds_port", "http01_port", "admin_port", "probes_port", "rest_port"),
            "tls_alpn01_port",
        ),
    ),
    LogEvent("app.stopped", "info", "It has stopped."),
    LogEvent("app.stopping", "info", "It was told to stop."),
    LogEvent("kms.insecure", "warning", "The KEK lies in a file: for trials only.", ("kek_uri", "hint")),
    LogEvent(
        "library.said", "info", "A library logged something, on a level of its own.", ("logger", "message")
    ),
    LogEvent("loop.crashed", "error", "A bug ended a loop's step. Please report it.", ("loop",)),
    LogEvent(
        "loop.failed",
        "warning",
        "A loop's step failed; it is tried again. Told of the first, second, fourth... failure in a row.",
        ("loop", "failures", "error"),
    ),
    LogEvent("loop.recovered", "info", "A loop works again.", ("loop", "failures")),
    LogEvent(
        "request.crashed", "error", "A bug: the API could not answer. Please report it.", ("method", "path")
    ),
    LogEvent(
        "replica.sealed",
        "warning",
        "This replica gives nothing away and opens nothing, until somebody breaks the seal.",
        ("by", "at", "reason"),
    ),
    LogEvent("replica.unsealed", "info", "The seal is broken: what proxies want is loaded anew.", ("by",)),
    LogEvent(
        "seal.unaudited",
        "error",
        "The replica is sealed, and the audit could not be told.",
        ("by", "error", "hint"),
    ),
    LogEvent(
        "replica.lapsed",
        "warning",
        "This replica said for too long nothing to the database: others did not count its streams meanwhile.",
    ),
    LogEvent(
        "memory.guarded",
        "info",
        "Whether freed memory is overwritten, and whether others than root could read this process's.",
        ("scrub", "dumps"),
    ),
    LogEvent(
        "memory.unguarded",
        "warning",
        "A part of what keeps keys out of freed memory and core files is missing.",
        ("what", "reason", "hint"),
    ),
    LogEvent(
        "roles.missing",
        "warning",
        "The database has not its roles: this control plane may do what it need not, as the owner of all.",
        ("reason", "hint"),
    ),
    LogEvent(
        "responder.overprivileged",
        "warning",
        "What answers challenges logs in as somebody who may read sealed keys: give it a login of that role.",
        ("login", "role"),
    ),
    LogEvent(
        "responder.ready",
        "info",
        "Challenges are answered, on these ports.",
        ("http01_port", "tls_alpn01_port"),
    ),
    LogEvent("responder.stopped", "info", "What answers challenges has stopped."),
    LogEvent(
        "rotations.forgotten",
        "info",
        "Finished rotations that are older than rotation.history went.",
        ("count",),
    ),
    LogEvent("schema.awaited", "info", "Another replica is at the tables; this one goes on when it is done."),
    LogEvent("schema.migrated", "info", "The database was brought to this release.", ("migrations",)),
    LogEvent(
        "issuer.undeclared",
        "warning",
        "Secrets want a CA that this replica's configuration does not name; it orders nothing there.",
        ("issuer", "secrets", "hint"),
    ),
    LogEvent(
        "secret.undeclared",
        "error",
        "What the configuration declares must not be served, or is frozen; what is served is served on.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "secret.declared",
        "info",
        "The configuration declared a secret anew.",
        ("secret", "domains", "kind"),
    ),
)
